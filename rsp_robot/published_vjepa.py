"""Encoders of published V-JEPA and V-JEPA 2 checkpoints, and of V-JEPA 2 as transformers stores it.

Sizes are read off the weights. V-JEPA keeps its 3-D positions in the file; V-JEPA 2 has rotary ones, and where its
files hold ``pos_embed`` all the same it is a relic of zeros.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch

from rsp_robot.backbones.vjepa import VideoTransformer, VJEPAConfig
from rsp_robot.errors import UserError
from rsp_robot.published import check_weights

TARGETS = ("target_encoder", "ema_encoder", "encoder")
"""Where an encoder lies in a checkpoint; the moving average comes first, as in the published evaluations."""
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}
"""Attention heads by width, in the published models."""
_PROJECTION = "patch_embed.proj.weight"
_DEFAULT_SIZE = 256
# Published sizes of V-JEPA 2 as (patches along a side, temporal positions): the relic tells which.
_RELICS = {grid * grid * times: grid for grid in (16, 24) for times in (8, 32)}
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)*(backbone\.)?")
_TRANSFORMERS = (
    (re.compile(r"^(vjepa2\.)?encoder\.embeddings\.patch_embeddings\."), "patch_embed."),
    (re.compile(r"^(vjepa2\.)?encoder\.layer\."), "blocks."),
    (re.compile(r"^(vjepa2\.)?encoder\.layernorm\."), "norm."),
    (re.compile(r"\.attention\."), ".attn."),
)


def vjepa_part(content: Mapping[str, Any], part: str) -> dict[str, torch.Tensor] | None:
    """Return the weights of ``encoder``, ``predictor`` or ``target_encoder`` by their bare names; None without them."""
    state = _tensors(content[part]) if isinstance(content.get(part), Mapping) else {}
    return state or None


def vjepa_weights(content: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """Return the encoder's weights by their bare names; None where the checkpoint is no V-JEPA."""
    for part in TARGETS:
        state = vjepa_part(content, part)
        if state is not None and state.get(_PROJECTION, torch.empty(0)).ndim == 5:
            return state
    flat = _tensors(content)
    if any(_TRANSFORMERS[0][0].match(name) for name in flat):
        flat = _from_transformers(flat)
    return flat if flat.get(_PROJECTION, torch.empty(0)).ndim == 5 else None


def vjepa_encoder(
    state: Mapping[str, torch.Tensor], arguments: Mapping[str, object], source: str, image_size: int | None = None
) -> tuple[VJEPAConfig, dict[str, torch.Tensor]]:
    """Tell the sizes of an encoder and check its weights.

    Args:
        state: what :func:`vjepa_weights` returned.
        arguments: may tell ``num_heads`` and ``image_size``, which no shape shows.
        source: what errors call the file.
        image_size: side of the pictures it shall see; only rotary positions (V-JEPA 2) leave a choice.

    Returns:
        The sizes, and the weights under the names of :class:`VideoTransformer`.

    Raises:
        UserError: the weights have another layout, or a size cannot be told or had.
    """
    width, channels, tubelet, patch, patch_width = state[_PROJECTION].shape
    if channels != 3 or patch != patch_width:
        raise UserError(
            f"{source} embeds patches of {channels} x {patch} x {patch_width}; needed are square RGB patches"
        )
    weights = dict(state)
    positions = weights.get("pos_embed")
    rotary = positions is None or not bool(positions.any())
    if rotary:
        weights.pop("pos_embed", None)
        told = arguments.get("image_size")
        relic = _RELICS.get(positions.shape[1], 0) * patch if positions is not None and positions.ndim == 3 else 0
        size = image_size or (told if isinstance(told, int) else 0) or relic or _DEFAULT_SIZE
        frames = tubelet
    else:
        grid, times = _raster(positions, source)  # type: ignore[arg-type]  # not rotary: there are positions
        size, frames = grid * patch, times * tubelet
        if image_size not in (None, size):
            raise UserError(
                f"the positions of {source} are for {size} px, not {image_size} px; leave out @{image_size}"
            )
    hidden = weights.get("blocks.0.mlp.fc1.weight", torch.empty(1)).shape[0]
    config = VJEPAConfig(
        image_size=size,
        patch_size=patch,
        tubelet=tubelet,
        frames=frames,
        width=width,
        depth=max(len({name.split(".")[1] for name in weights if name.startswith("blocks.")}), 1),
        heads=_heads(width, arguments, source),
        mlp_hidden=hidden,
        rotary=rotary,
    )
    with torch.device("meta"):
        wanted = VideoTransformer(config).state_dict()
    check_weights(weights, wanted, f"the encoder in {source}")
    return config, weights


def _tensors(part: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a mapping, without what wrappers put before their names."""
    return {
        _WRAPPERS.sub("", name): tensor.detach()
        for name, tensor in part.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }


def _from_transformers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the encoder's weights of transformers their published names; queries, keys and values become one map."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if re.match(r"(vjepa2\.)?encoder\.", name):
            for pattern, ours in _TRANSFORMERS:
                name = pattern.sub(ours, name)
            renamed[name] = tensor
    joined = {}
    for name, tensor in renamed.items():
        found = re.match(r"(.*\.attn\.)(query|key|value)(\..*)", name)
        if found is None:
            joined[name] = tensor
            continue
        before, _, after = found.groups()
        parts = [renamed.get(f"{before}{part}{after}") for part in ("query", "key", "value")]
        if all(part is not None for part in parts):
            joined[f"{before}qkv{after}"] = torch.cat([part for part in parts if part is not None])
    return joined


def _raster(positions: torch.Tensor, source: str) -> tuple[int, int]:
    """Tell the patches along a side, and the temporal positions: a channel of the column repeats after one row."""
    count = positions.shape[1] if positions.ndim == 3 else 0
    if count > 1:
        table = positions[0]
        columns = table[0] != table[1]
        back = [place for place in range(1, isqrt(count) + 1) if torch.equal(table[place, columns], table[0, columns])]
        if back and count % back[0] ** 2 == 0:
            return back[0], count // back[0] ** 2
        if isqrt(count) ** 2 == count:
            return isqrt(count), 1
    raise UserError(
        f"pos_embed of {source} has shape {tuple(positions.shape)} and is no table of 3-D positions; "
        "give a V-JEPA checkpoint"
    )


def _heads(width: int, arguments: Mapping[str, object], source: str) -> int:
    """Tell the number of attention heads, which no shape shows."""
    told = arguments.get("num_heads")
    if isinstance(told, int):
        return told
    if width in HEADS or width % 64 == 0:
        return HEADS.get(width, width // 64)
    raise UserError(f"cannot tell the number of attention heads of {source} (width {width}); put num_heads in its args")
