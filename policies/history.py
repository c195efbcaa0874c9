"""The recent past of an episode as a network sees it: one set of rules for the data set and for acting."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


def window_rows(rows: Tensor, first: Tensor, last: Tensor, before: int, after: int) -> Tensor:
    """Return the rows around each row, without leaving its episode: its first and its last row stand in for the rest.

    Args:
        rows: int64 ``(B,)``.
        first: int64 ``(N,)``, for every row of the data the first row of its episode.
        last: int64 ``(N,)``, the last one.
        before: rows wanted before each row.
        after: rows wanted from each row on, itself included.

    Returns:
        int64 ``(B, before + after)``.

    >>> first, last = torch.tensor([0, 0, 0, 3, 3]), torch.tensor([2, 2, 2, 4, 4])
    >>> window_rows(torch.tensor([1, 3]), first, last, before=2, after=3).tolist()
    [[0, 0, 1, 2, 2], [3, 3, 3, 4, 4]]
    """
    if before == 0 and after == 1:
        return rows[:, None]
    wanted = rows[:, None] + torch.arange(-before, after, device=rows.device)
    return wanted.maximum(first[rows][:, None]).minimum(last[rows][:, None])


def fuse(pictures: Tensor, history: int, fusion: str) -> Tensor:
    """Put each observation together with those before it.

    Args:
        pictures: embeddings ``(B, history - 1 + T, C, ...)`` of ``C`` cameras at consecutive steps.
        history: embeddings per observation, n.
        fusion: ``"concat"`` leaves them as they are; ``"difference"`` gives ``e1 - e0, ..., e[n-1] - e[n-2], e[n-1]``,
            as in CortexBench (Majumdar et al. 2023; the fusion is FLARE's, Shang et al. 2021).

    Returns:
        ``(B, T, C, n, ...)``, the oldest first.

    >>> fuse(torch.tensor([1.0, 2, 4]).reshape(1, 3, 1, 1), 3, "difference").flatten().tolist()
    [1.0, 2.0, 4.0]
    """
    count = pictures.shape[1] - history + 1
    past = torch.stack([pictures[:, step : step + count] for step in range(history)], dim=3)
    if fusion == "difference" and history > 1:
        past = torch.cat([past[:, :, :, 1:] - past[:, :, :, :-1], past[:, :, :, -1:]], dim=3)
    return past


class Past:
    """The last embeddings of one episode while it is played.

    >>> past = Past(3)
    >>> past.add(torch.zeros(1, 2)).shape, past.add(torch.ones(1, 2))[0, :, 0, 0].tolist()
    (torch.Size([1, 3, 1, 2]), [0.0, 0.0, 1.0])
    """

    def __init__(self, history: int) -> None:
        self._held: deque[Tensor] = deque(maxlen=history)

    def add(self, pictures: Tensor) -> Tensor:
        """Remember the embeddings of one step ``(C, ...)``; return ``(1, history, C, ...)`` for :func:`fuse`.

        At the start of an episode the first embeddings stand in for those before them.
        """
        self._held.append(pictures)
        assert self._held.maxlen is not None
        missing = self._held.maxlen - len(self._held)
        return torch.stack([self._held[0]] * missing + list(self._held))[None]
