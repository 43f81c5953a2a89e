"""What transformers' tokenizer classes make of a tokenizer.json.

Since version 5 a class takes only the vocabulary, the special tokens around a text and, of SentencePiece, the table of
characters from there. How text is normalized and split it knows itself, from tokenizer_config.json and its defaults.
Ids are to be those that transformers gives, so that is written into the cache's tokenizer.json as well.
"""

from collections.abc import Callable, Collection
from typing import Any

from cache.format.checksummed_json import Json

BERT = "BertNormalizer"
BERT_SETTINGS = (
    ("do_lower_case", "lowercase", True),
    ("strip_accents", "strip_accents", None),
    ("tokenize_chinese_chars", "handle_chinese_chars", True),
)
"""Key of tokenizer_config.json, key of the normalizer in tokenizer.json, transformers' default."""

GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend", "PreTrainedTokenizer")
"""Classes that take tokenizer.json as it is."""
BERTS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "MPNetTokenizer")
"""Classes that only set BERT's normalizer."""

MODELS = {
    **dict.fromkeys(("bert", "convbert", "distilbert", "electra", "ernie", "nomic_bert"), "BertTokenizer"),
    "mobilebert": "MobileBertTokenizer",
    "mpnet": "MPNetTokenizer",
    **dict.fromkeys(("roberta", "bart", "longformer"), "RobertaTokenizer"),
    **dict.fromkeys(("xlm-roberta", "xmod"), "XLMRobertaTokenizer"),
    "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    **dict.fromkeys(("modernbert", "nystromformer", "xlm-roberta-xl"), "TokenizersBackend"),
}
"""Types of models, and the class that transformers takes for the tokenizer of each where no file names one."""

DEFAULTS: dict[str, Json] = {"ByteLevel": {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}}
SPACES: Json = {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "}
STRIP_END: Json = {"type": "Strip", "strip_left": False, "strip_right": True}
WORDS: Json = {"type": "WhitespaceSplit"}
PUNCTUATION: Json = {"type": "Punctuation", "behavior": "Isolated"}


def class_name(config: Json, model: Json) -> Any:
    """The class of a tokenizer, as transformers finds it; None where no file says so.

    Args:
        config: the content of tokenizer_config.json.
        model: the content of config.json; empty where there is none.
    """
    kind = model.get("model_type")
    usual = MODELS.get(str(kind), kind)
    if usual in GENERIC or (kind and str(kind) not in MODELS):  # of other models transformers alone knows the class
        return usual
    return config.get("tokenizer_class") or model.get("tokenizer_class") or usual


def is_known(parts: Json, config: Json, more: Collection[str]) -> bool:
    """Whether `made_anew` knows what transformers makes of a tokenizer; arguments as there. Tokens that tokenizer.json
    does not list, special ones and those of added_tokens.json, `more`, are added by transformers."""
    name = str(config.get("tokenizer_class") or GENERIC[0])
    plain = name.removesuffix("Fast")
    by_normalizer = plain in BERTS and _as_object(parts.get("normalizer")).get("type") == BERT
    added = {*map(_text, _listed(parts.get("added_tokens")))}
    by_model = plain in CLASSES and _as_object(parts.get("model")).get("type") == CLASSES[plain][0]
    return (name in GENERIC or by_model or by_normalizer) and {*_special_tokens(config), *more} <= added


def _special_tokens(config: Json) -> set[str]:
    """The special tokens that tokenizer_config.json names; without that of padding, which is looked for later."""
    named = [token for role, token in config.items() if role.endswith("_token") and role != "pad_token"]
    for key in ("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"):
        named += _listed(config.get(key))
    return {text for text in map(_text, named) if text}


def _listed(tokens: Any) -> list[Any]:
    """Tokens that come in a list, or by a name or id each."""
    tokens = list(tokens.values()) if isinstance(tokens, dict) else tokens
    return tokens if isinstance(tokens, list) else []


def _text(token: Any) -> str:
    """A token as text: it may be an object; empty where it is neither."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def made_anew(parts: Json, config: Json) -> Json:
    """The parts of a tokenizer.json that transformers would make otherwise: `normalizer`, `pre_tokenizer`, or none.

    Args:
        parts: the content of tokenizer.json.
        config: the content of tokenizer_config.json.
    """
    name = config.get("tokenizer_class")
    if name in GENERIC:
        return {}
    _, make = CLASSES.get(str(name).removesuffix("Fast"), ("", None))
    if make:
        made = make(parts, config)
        return {key: part for key, part in made.items() if _spelled_out(part) != _spelled_out(parts.get(key))}
    changed: Json = {}
    normalizer, splitter = (_as_object(parts.get(key)) for key in ("normalizer", "pre_tokenizer"))
    if normalizer.get("type") == BERT:
        keys = [row for row in BERT_SETTINGS if row[0] in config or name]
        changed["normalizer"] = {**normalizer, **{ours: config.get(key, default) for key, ours, default in keys}}
    if splitter.get("type") == "ByteLevel" and isinstance(config.get("add_prefix_space"), bool):
        changed["pre_tokenizer"] = {**splitter, "add_prefix_space": config["add_prefix_space"]}
    return changed


def _roberta(parts: Json, config: Json) -> Json:
    """Byte-level BPE; a space before the text only where asked for."""
    space = bool(config.get("add_prefix_space"))
    return {"normalizer": None, "pre_tokenizer": {**DEFAULTS["ByteLevel"], "add_prefix_space": space}}


def _xlm_roberta(parts: Json, config: Json) -> Json:
    """Unigram over words, its table of characters taken from tokenizer.json."""
    tables = [step for step in _steps(parts.get("normalizer")) if step.get("type") == "Precompiled"]
    splitters = [WORDS, _spaces_as_letters("always" if config.get("add_prefix_space", True) else "never")]
    return {"normalizer": next(iter(tables), None), "pre_tokenizer": _sequence("pretokenizers", splitters)}


def _deberta(parts: Json, config: Json) -> Json:
    """Unigram over whole texts."""
    lower = [{"type": "Lowercase"}] if config.get("do_lower_case") else []
    splitters = [PUNCTUATION] if config.get("split_by_punct") else []
    splitters.append(_spaces_as_letters("always" if config.get("add_prefix_space", True) else "first"))
    normalizers = [*lower, SPACES, {"type": "NFC"}, STRIP_END]
    return {
        "normalizer": _sequence("normalizers", normalizers),
        "pre_tokenizer": _sequence("pretokenizers", splitters),
    }


CLASSES: dict[str, tuple[str, Callable[[Json, Json], Json]]] = {
    **dict.fromkeys(("RobertaTokenizer", "BartTokenizer", "LongformerTokenizer"), ("BPE", _roberta)),
    **dict.fromkeys(("XLMRobertaTokenizer", "CamembertTokenizer"), ("Unigram", _xlm_roberta)),
    "DebertaV2Tokenizer": ("Unigram", _deberta),
}
"""What a class of transformers makes anew, of which model of `tokenizers`. `BERTS` are known by their normalizer,
others are left to transformers."""


def _as_object(part: Any) -> Json:
    return part if isinstance(part, dict) else {}


def _steps(part: Any) -> list[Json]:
    """The steps of a normalizer or splitter, which may be one alone, a sequence or none."""
    part = _as_object(part)
    steps = part.get("normalizers", part.get("pretokenizers"))
    return [_as_object(step) for step in steps] if isinstance(steps, list) else [part] if part else []


def _spelled_out(part: Any) -> list[Json]:
    """Its steps with nothing left to defaults, so that equal ones compare equal."""
    steps = []
    for step in _steps(part):
        if step.get("type") == "Metaspace":
            old = {"prepend_scheme": "always" if step.get("add_prefix_space", True) else "never", "split": True}
            step = {**old, **{key: value for key, value in step.items() if key != "add_prefix_space"}}
        steps.append({**DEFAULTS.get(str(step.get("type")), {}), **step})
    return steps


def _spaces_as_letters(prepend: str) -> Json:
    """SentencePiece's splitter; `prepend` says before what a space is put: "always", "first" or "never"."""
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend, "split": True}


def _sequence(key: str, steps: list[Json]) -> Json:
    return {"type": "Sequence", key: steps}
