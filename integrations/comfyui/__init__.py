"""nst-fast as nodes of ComfyUI, which finds them by ``comfy_entrypoint``."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES


class NstFast(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


async def comfy_entrypoint() -> NstFast:
    return NstFast()
