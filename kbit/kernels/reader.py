"""What the native decoders have in common: a place in the text that was read, and a cache behind it."""

from __future__ import annotations

from kbit.errors import KernelError
from kbit.kernels import _native


class NativeReader:
    """Tokens that were read one call after another, by a decoder of floats or of integers."""

    _native: _native.Decoder | _native.FixedDecoder

    @property
    def position(self) -> int:
        """Tokens read so far."""
        return self._native.position

    @property
    def cache_bytes(self) -> int:
        """Memory of the cache of keys and values."""
        return self._native.cache_bytes

    def rewind(self, position: int) -> None:
        """Forget what was read from `position` on. Raises KernelError where that is beyond what was read."""
        try:
            self._native.rewind(position)
        except ValueError as error:
            raise KernelError(str(error)) from None
