"""Which image a token may see, and what the tokens of a pass see together.

Every token sees one image at most, so attention over images falls into as many small parts as there are pairs of a row
and an image that are seen: no token is ever compared with an image that it may not see.

Source: Alayrac et al., Flamingo (2022), section 3.1.3, for the rule `previous`; OpenFlamingo 0.0.2 for `next`, which is
what it does where nobody asks for its placement augmentation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch

from medbench.adapters.base import RowStates

MediaRule = Literal["previous", "next"]
NOTHING = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """What a row reads besides its tokens.

    Attributes:
        images: Keys and values of each of its images, for all blocks: [blocks, 2, heads, latents, width].
        seen: Number of the image, from 1, that each of the prompt's tokens may see, and last of all what those behind
            the prompt may: int [L + 1]; 0 for none.
    """

    images: tuple[torch.Tensor, ...]
    seen: torch.Tensor


def seen_images(ids: Sequence[int], image_id: int, rule: MediaRule) -> tuple[list[int], int]:
    """Return the number of the image, from 1, that each token may see, and that of what follows; 0 for none.

    Args:
        ids: Of a row, without padding.
        image_id: Stands where an image is.
        rule: `previous`: a token sees the last image before it, `<image>` its own. `next`: `<image>` sees its own,
            every other token the image after it, and what follows the last image sees none.
    """
    counts = list(accumulate(int(token == image_id) for token in ids))
    total = counts[-1] if counts else NOTHING
    if rule == "previous":
        return counts, total
    following = [
        count if token == image_id else (count + 1) * (count < total) for token, count in zip(ids, counts, strict=True)
    ]
    return following, NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What is seen in one pass of N tokens.

    Attributes:
        tokens: Those that see an image [S], by the image that they see.
        places: Place of each in a table of `len(images)` rows and `longest` columns [S].
        longest: Most tokens that see the same image.
        images: Every image that is seen, of every row: [blocks, 2, heads, latents, width].
    """

    tokens: torch.Tensor
    places: torch.Tensor
    longest: int
    images: tuple[torch.Tensor, ...]

    def keys_and_values(self, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [P, heads, latents, width] of the P images for a block."""
        keys, values = torch.stack([image[block] for image in self.images]).unbind(1)
        return keys, values


def looks_of(states: RowStates, positions: torch.Tensor) -> Looks | None:
    """Return what the tokens of a pass see; None if nothing.

    Args:
        states: A `Media` of every row.
        positions: Place of each token in its row [B, L].
    """
    device = positions.device
    if states.rows is None:
        positions = positions.expand(len(states.states), -1)
        own = torch.arange(len(positions)).repeat_interleave(positions.shape[1])
    else:
        own = states.rows.cpu()
    numbers = _numbers(states.states, own, positions.cpu().flatten())
    [tokens] = numbers.nonzero(as_tuple=True)
    if not len(tokens):
        return None
    most = int(numbers.max()) + 1
    pairs, group_of, sizes = (own * most + numbers)[tokens].unique(return_inverse=True, return_counts=True)
    order = group_of.argsort(stable=True)
    starts = sizes.cumsum(dim=0) - sizes
    longest = int(sizes.max())
    sorted_groups = group_of[order]
    places = sorted_groups * longest + torch.arange(len(order)) - starts[sorted_groups]
    images = tuple(states.states[pair // most].images[pair % most - 1] for pair in pairs.tolist())
    return Looks(tokens=tokens[order].to(device), places=places.to(device), longest=longest, images=images)


def _numbers(media: Sequence[Media], rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the number of the image that each token may see [N], by its row and its place there."""
    table = torch.nn.utils.rnn.pad_sequence([one.seen for one in media], batch_first=True)
    behind = torch.tensor([len(one.seen) - 1 for one in media])
    numbers: torch.Tensor = table[rows, torch.minimum(positions, behind[rows])]
    return numbers
