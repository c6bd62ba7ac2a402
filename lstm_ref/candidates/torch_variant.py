"""torch: what variant a module is: as declared, else what a torch.nn.LSTM says of itself."""

from __future__ import annotations

import dataclasses

from ..reference.variant import Variant


def variant_of(module, declared: Variant, packed: bool) -> Variant:
    """The variant of a module; one that is given packed sequences returns zeros after the end of each, as the call does."""
    import torch

    if declared.textbook and isinstance(module, torch.nn.LSTM):
        direction = "both" if module.bidirectional else "forward"
        declared = dataclasses.replace(declared, layers=module.num_layers, direction=direction, projection=module.proj_size)
    return dataclasses.replace(declared, mask="zero", lengths=True) if packed else declared


def has_batch_first(module) -> bool:
    """Whether a torch.nn.LSTM was built so, by an option or by its own class."""
    import torch

    return isinstance(module, torch.nn.LSTM) and module.batch_first
