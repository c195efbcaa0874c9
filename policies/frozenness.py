"""The proof that an encoder stayed frozen: a checksum of its weights before and after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rsp_robot.policies.embeddings import encoder_device

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder


class FrozenGuard:
    """Watches over an encoder while a policy is trained."""

    def __init__(self, encoder: FrozenEncoder) -> None:
        """Take the checksum of its weights as they are now."""
        self.encoder = encoder
        self.before = encoder.weights_checksum()

    def check(self) -> dict[str, str]:
        """Return both checksums.

        Raises:
            RuntimeError: they differ.
        """
        after = self.encoder.weights_checksum()
        if after != self.before:
            raise RuntimeError(
                f"the weights of the frozen encoder changed during training (checksum {self.before[:16]} before, "
                f"{after[:16]} after)"
            )
        return {"checksum_before": self.before, "checksum_after": after}

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Put the encoder back afterwards on the device that it is on now."""
        home = encoder_device(self.encoder)
        try:
            yield
        finally:
            self.encoder.to(home)
