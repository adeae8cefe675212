"""Parts of a batch for machines that know nothing of each other. Standard library only."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Self

from nst_fast.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a batch, by the hash of names: the same on every machine. ``1/1`` is all of it."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """``2/5`` -> the second of five parts."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard {text!r}: is no part of a whole", "Write it as 2/5: the second of five parts")
        return cls(int(match[1]), int(match[2]))

    def holds(self, name: str) -> bool:
        digest = hashlib.sha256(os.fsencode(name)).digest()
        return int.from_bytes(digest[:8]) % self.count == self.index - 1


WHOLE = Shard()
