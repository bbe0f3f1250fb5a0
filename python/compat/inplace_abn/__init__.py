"""Drop-in for the original package of this name, on top of iabn: its names, arguments, defaults and gamma."""

from inplace_abn.abn import ABN, InPlaceABN, InPlaceABNSync
from inplace_abn.group import active_group, set_active_group

__distribution__ = "iabn-inplace-abn-compat"  # `python -m iabn doctor` knows this module by this line
__all__ = ["ABN", "InPlaceABN", "InPlaceABNSync", "active_group", "set_active_group"]
