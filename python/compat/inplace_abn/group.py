"""Process groups of those that take part in a step."""

import weakref

import torch.distributed as distributed
from torch import nn

# By world, then by (members of the group, active ones of them): making a group is slow, and a process can have only so
# many. They end with their world: Gloo's threads must not outlive it.
_groups: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def active_group(group, active: bool):
    """The group of those processes of `group` (None: all) that call this with active=True; all of them must call it.

    None where nobody is active or torch.distributed is not initialised.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    whole = distributed.group.WORLD if group is None else group
    answers = [None] * distributed.get_world_size(whole)
    distributed.all_gather_object(answers, bool(active), group=whole)
    members = distributed.get_process_group_ranks(whole)
    ranks = [rank for rank, answer in zip(members, answers, strict=True) if answer]
    if not ranks:
        return None
    if len(ranks) == len(members):
        return whole
    groups = _groups.setdefault(distributed.group.WORLD, {})
    key = (tuple(members), tuple(ranks))
    if key not in groups:
        # Local: the processes outside `group` are not here to take part.
        groups[key] = distributed.new_group(ranks, use_local_synchronization=True)
    return groups[key]


def set_active_group(module: nn.Module, group) -> None:
    """Gives `group` to every layer in `module` that can synchronise."""
    for layer in module.modules():
        if hasattr(layer, "set_group"):
            layer.set_group(group)
