"""What commands do first, done once in the server that their processes are forked from: slow imports, and transformers'
table of renamed weights, which takes as long to make as two steps of training.

No garbage collection looks at any of it, in no child either: that would take as long as a short command.
"""

import gc
import importlib

gc.disable()
for _name in (
    "tests.helpers.children",
    "tests.helpers.prep_imports",
    "train.run",
    "transformers.models.bert.modeling_bert",
    "matplotlib.backends.backend_svg",
    "jinja2",
):
    importlib.import_module(_name)
importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("bert")
gc.freeze()
gc.enable()
