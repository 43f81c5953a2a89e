"""What commands do first, done once in the server that their processes are forked from: slow imports, and transformers'
table of renamed weights, which takes as long to make as two steps of training."""

import importlib

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

for _name in (
    "train.run",
    "transformers.models.bert.modeling_bert",
    "nanotoken",
    "matplotlib.backends.backend_svg",
    "jinja2",
):
    importlib.import_module(_name)
get_checkpoint_conversion_mapping("bert")
