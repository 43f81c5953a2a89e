"""The settings of a run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.common.folder import Folder
from cache.errors import InputError
from cache.plans.spec import PlanSpec
from train.declarations import flag
from train.run_folder.folder import RunInfo, read_run, write_settings
from train.settings import Settings, contradictions


def test_all_wrong_settings_are_reported_at_once_by_flag():
    with pytest.raises(InputError) as error:
        Settings(
            cache="c",
            epochs=0,
            lr=float("nan"),
            batch_size=-1,
            precision="fp8",
            strategy="clever",
            keep_checkpoints=0,
            warmup_ratio=1.5,
            on_nonfinite="pray",
            model="",
        )
    lines = str(error.value).splitlines()
    flags = [
        "--epochs", "--keep-checkpoints", "--batch-size", "--lr", "--warmup-ratio",
        "--precision", "--strategy", "--on-nonfinite", "--model",
    ]  # fmt: skip
    assert sorted(line.split()[0] for line in lines) == sorted(flags)
    assert "--epochs is 0, expected an integer of 1 or more" in lines
    assert "--precision is 'fp8', expected one of auto, fp32, bf16, fp16" in lines


@pytest.mark.parametrize("value", [float("inf"), 10**400, -(10**400)])
def test_a_number_past_all_bounds_is_refused_for_that(value):
    name = "lr" if isinstance(value, float) else "epochs"
    with pytest.raises(InputError, match=r"is -?(inf|10+…), expected .*, finite and below 2\^62$"):
        Settings(cache="c", **{name: value})


def test_the_two_ways_to_give_a_warm_up_exclude_each_other():
    with pytest.raises(InputError, match="--warmup-steps and --warmup-ratio are both given"):
        Settings(cache="c", warmup_steps=1, warmup_ratio=0.1)


def test_the_warm_up_ratio_is_rounded_up_to_steps():
    assert Settings(cache="c", warmup_ratio=0.1).warmup(25) == 3
    assert Settings(cache="c", warmup_steps=7).warmup(25) == 7
    assert Settings(cache="c").warmup(25) == 0


@given(
    lr=st.floats(1e-9, 1),
    epochs=st.integers(1, 100),
    strategy=st.sampled_from([None, "smart", "tight"]),
    compile_=st.booleans(),
)
@settings(deadline=None)
def test_settings_survive_the_way_through_json(lr, epochs, strategy, compile_):
    import json

    settings = Settings(cache="c", lr=lr, epochs=epochs, strategy=strategy, compile=compile_)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_an_unknown_setting_is_named():
    with pytest.raises(InputError, match="no setting is called 'leraning_rate'; the settings are cache, model"):
        Settings.from_json({"cache": "c", "leraning_rate": 1})
    with pytest.raises(InputError, match="the cache is not named"):
        Settings.from_json({})


BUILT = PlanSpec("smart", 32, None, 7)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, BUILT),
        ({"strategy": "tight"}, PlanSpec("tight", 32, None, 7)),
        ({"batch_size": 8}, PlanSpec("smart", 8, None, 7)),
        ({"plan_seed": 0}, PlanSpec("smart", 32, None, 0)),
        ({"strategy": "budget", "max_tokens": 4096}, PlanSpec("budget", None, 4096, 7)),
    ],
)
def test_what_is_not_given_of_the_plan_is_as_the_cache_was_built(given, expected):
    assert Settings(cache="c", **given).plan_spec(BUILT) == expected


def test_a_strategy_with_batch_size_on_a_cache_built_with_a_budget_takes_16():
    built = PlanSpec("budget", None, 4096, 7)
    assert Settings(cache="c", strategy="smart").plan_spec(built) == PlanSpec("smart", 16, None, 7)
    assert Settings(cache="c").plan_spec(built) == built


@pytest.mark.parametrize(
    "given", [{"strategy": "budget"}, {"max_tokens": 100}, {"strategy": "budget", "max_tokens": 9, "batch_size": 2}]
)
def test_a_plan_that_contradicts_itself_is_refused(given):
    with pytest.raises(InputError, match="--max-tokens"):
        Settings(cache="c", **given).plan_spec(BUILT)


def test_contradictions_name_flag_run_and_command_line():
    run = Settings(cache="c", lr=1e-3, save_steps=5)
    assert contradictions(run, {"lr": 1e-3, "save_steps": 9, "keep_checkpoints": 5, "device": "cuda:1"}) == []
    assert contradictions(run, {"max_steps": 9}) == ["--max-steps is None in the run, 9 was given"]


def test_flags_are_field_names_with_dashes():
    assert flag("pad_to_multiple_of") == "--pad-to-multiple-of"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strategy": "smart"}, "--strategy smart takes --batch-size"),
        ({"strategy": "budget"}, "--strategy budget takes --max-tokens"),
        ({"batch_size": 8}, "--strategy 'None' is not one of"),
    ],
)
def test_a_run_that_does_not_say_how_its_batches_were_planned_is_refused(tmp_path, given, said):
    """One that was edited: found before it is resumed, not by the model card at its end."""
    with Folder.make(tmp_path / "run") as run:
        write_settings(run, RunInfo(Settings("c", "m", **given), "toy", "f" * 64, "d" * 64, 48, 60, {"device": "cpu"}))
        with pytest.raises(InputError, match=f"cannot be read as a run's settings .{said}"):
            read_run(run)
