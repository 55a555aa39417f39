"""A client of 2015, written from the description of its wire format alone (system-image §1 to §3), with GnuPG and
tarfile.

It knows nothing of `coreimage`, so that the two can disagree. It refuses what an unmodified client or an old recovery
image would stumble over.
"""

from tests.harness.strict_client.applier import Applier
from tests.harness.strict_client.device import Device, Update, update
from tests.harness.strict_client.refusal import RefusedError, require
from tests.harness.strict_client.search import candidates, device_percentage, winner
from tests.harness.strict_client.tree import check_tree

__all__ = [
    "Applier",
    "Device",
    "RefusedError",
    "Update",
    "candidates",
    "check_tree",
    "device_percentage",
    "require",
    "update",
    "winner",
]
