"""A whole archive explained: on Ray Data, resumable, nothing lost. Extra ``archive``.

>>> explain_archive("images/", "maps/", Settings(ModelSource("resnet18", "DEFAULT"), (Method("epsilon_plus_flat"),)))
>>> Archive("maps/")["patient17.png"].explanations[0].map
"""

try:
    import pyarrow  # noqa: F401  # before what needs it: the extra is named
except ModuleNotFoundError as error:
    told = f"an archive needs the package {error.name}: pip install 'lrp-plugin[archive]'"
    raise ModuleNotFoundError(told, name=error.name) from None

from lrp_plugin.archive.manifest import Manifest, ManifestError
from lrp_plugin.archive.models import ModelSource
from lrp_plugin.archive.pool import Machines
from lrp_plugin.archive.reader import Archive, Explained, Explanation, Selection
from lrp_plugin.archive.run import Limits, TooManyErrorsError, explain_archive
from lrp_plugin.archive.settings import Maps, Method, Picture, Settings, Targets
from lrp_plugin.archive.state import Progress, Status, status
from lrp_plugin.archive.verifying import Verified, verify

__all__ = [
    "Archive",
    "Explained",
    "Explanation",
    "Limits",
    "Machines",
    "Manifest",
    "ManifestError",
    "Maps",
    "Method",
    "ModelSource",
    "Picture",
    "Progress",
    "Selection",
    "Settings",
    "Status",
    "Targets",
    "TooManyErrorsError",
    "Verified",
    "explain_archive",
    "status",
    "verify",
]
