"""The part of ComfyUI's API (schema V3) that our nodes use, and an executor of workflows in the API's format.

Names, parameters and behaviour are ComfyUI's; what is not known here raises, so that a node which uses more is noticed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image


class InterruptError(Exception):
    """ComfyUI's InterruptProcessingException."""


@dataclass
class Input:
    id: str
    display_name: str | None = None
    optional: bool = False
    tooltip: str | None = None
    kind: str = ""

    def problem(self, value: Any) -> str | None:
        return None


@dataclass
class Widget(Input):
    default: Any = None

    def problem(self, value: Any) -> str | None:
        return None if type(value) is type(self.default) else f"{self.id}: {value!r} is no {self.kind}"


@dataclass
class Number(Widget):
    min: float | None = None
    max: float | None = None
    step: float | None = None
    control_after_generate: bool | None = None

    def problem(self, value: Any) -> str | None:
        low, high = -np.inf if self.min is None else self.min, np.inf if self.max is None else self.max
        return None if low <= value <= high else f"{self.id}: {value} is not from {low} to {high}"


@dataclass
class Combo(Widget):
    options: list[str] = field(default_factory=list)

    def problem(self, value: Any) -> str | None:
        return None if value in self.options else f"{self.id}: {value!r} is none of {self.options}"


@dataclass
class String(Widget):
    multiline: bool = False
    placeholder: str | None = None


@dataclass
class Output:
    display_name: str | None = None
    kind: str = ""


def type_of(kind: str, input_class: type[Input] = Input) -> SimpleNamespace:
    """A type of the schema, with its ``Input`` and ``Output``."""

    def make(cls: type) -> Any:
        return lambda *given, **facts: cls(*given, **facts, kind=kind)

    return SimpleNamespace(Input=make(input_class), Output=make(Output))


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    inputs: list[Input]
    outputs: list[Output]
    description: str = ""
    hidden: list[str] = field(default_factory=list)
    is_output_node: bool = False


class ComfyNode:
    hidden: Any = None


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class Comfy:
    """ComfyUI as a node sees it.

    Attributes:
        progress: what bars were updated with: value, maximum, node, whether there was a preview.
        interrupt_at: a value of the progress at which the user interrupts.
        asked: how often a node then asked whether it is interrupted.
    """

    def __init__(self) -> None:
        self.progress: list[tuple[int, int | None, str, bool]] = []
        self.interrupt_at: int | None = None
        self.interrupted = False
        self.asked = 0

    def bar(self, total: int, node_id: str | None = None) -> SimpleNamespace:
        """A ``ProgressBar``; as in ComfyUI an update raises after an interrupt."""

        def update_absolute(value: int, total: int | None = None, preview: Any = None) -> None:
            self.throw_exception_if_processing_interrupted()
            assert preview is None or (preview[0] == "JPEG" and isinstance(preview[1], Image.Image))
            self.progress.append((value, total, str(node_id), preview is not None))
            self.interrupted = value == self.interrupt_at

        return SimpleNamespace(update_absolute=update_absolute)

    def processing_interrupted(self) -> bool:
        self.asked += self.interrupted
        return self.interrupted

    def throw_exception_if_processing_interrupted(self) -> None:
        if self.interrupted:
            self.interrupted = False
            raise InterruptError

    def modules(self) -> dict[str, ModuleType]:
        io = SimpleNamespace(
            Schema=Schema,
            ComfyNode=ComfyNode,
            NodeOutput=NodeOutput,
            Custom=type_of,
            Hidden=SimpleNamespace(unique_id="UNIQUE_ID"),
            Image=type_of("IMAGE"),
            Mask=type_of("MASK"),
            Int=type_of("INT", Number),
            Float=type_of("FLOAT", Number),
            Combo=type_of("COMBO", Combo),
            String=type_of("STRING", String),
            Input=Input,
        )
        parts = {
            "comfy_api": {},
            "comfy_api.latest": {
                "io": io,
                "ui": SimpleNamespace(PreviewText=lambda value: {"text": (value,)}),
                "ComfyExtension": type("ComfyExtension", (), {}),
            },
            "comfy": {},
            "comfy.utils": {"ProgressBar": self.bar},
            "comfy.model_management": {
                "processing_interrupted": self.processing_interrupted,
                "throw_exception_if_processing_interrupted": self.throw_exception_if_processing_interrupted,
                "get_torch_device": lambda: torch.device("cpu"),
            },
        }
        made = {name: ModuleType(name) for name in parts}
        for name, values in parts.items():
            vars(made[name]).update(values)
        made["comfy"].model_management = made["comfy.model_management"]  # type: ignore[attr-defined]  # a module made here
        return made


@contextmanager
def loaded_pack(folder: Path, comfy: Comfy) -> Iterator[dict[str, Any]]:
    """The nodes of a pack by their ids, loaded as ComfyUI loads a folder of ``custom_nodes``."""
    name = "nodes_of_the_pack"
    before = dict(sys.modules)
    sys.modules |= comfy.modules()
    try:
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        extension = asyncio.run(module.comfy_entrypoint())
        nodes = asyncio.run(extension.get_node_list())
        yield {node.define_schema().node_id: node for node in nodes}
    finally:
        for added in [added for added in sys.modules if added not in before and added.startswith(("comfy", name))]:
            del sys.modules[added]


class Executor:
    """Executes a workflow, in inference mode as ComfyUI does; pictures are read from and written to a folder."""

    def __init__(self, nodes: dict[str, Any], folder: Path) -> None:
        self.nodes, self.folder = nodes, folder

    def run(self, workflow: dict[str, Any], **given: tuple[Any, ...]) -> dict[str, Any]:
        """Results of all nodes by their numbers, after those of an output node what it shows.

        ``given``: results of nodes that are not in the workflow.
        """
        done: dict[str, Any] = dict(given)
        with torch.inference_mode():
            for number in workflow:
                self._executed(number, workflow, done)
        return done

    def _executed(self, number: str, workflow: dict[str, Any], done: dict[str, Any]) -> tuple[Any, ...]:
        if number not in done:
            kind, given = workflow[number]["class_type"], workflow[number]["inputs"]
            linked = {name for name, value in given.items() if isinstance(value, list)}
            inputs = {
                name: self._executed(value[0], workflow, done)[value[1]] if name in linked else value
                for name, value in given.items()
            }
            own = {"LoadImage": self._load, "LoadImageMask": self._load_mask, "SaveImage": self._save}.get(kind)
            done[number] = own(**inputs) if own else self._node(kind, number, inputs, linked)
        return tuple(done[number])

    def _node(self, kind: str, number: str, inputs: dict[str, Any], linked: set[str]) -> tuple[Any, ...]:
        node = self.nodes[kind]
        schema = node.define_schema()
        known = {each.id: each for each in schema.inputs}
        problems = [f"unknown input {name}" for name in inputs.keys() - known.keys()]
        problems += [f"no {each.id}" for each in schema.inputs if not each.optional and each.id not in inputs]
        constants = {name: value for name, value in inputs.items() if name in known and name not in linked}
        problems += filter(None, (known[name].problem(value) for name, value in constants.items()))
        if "options" in constants and hasattr(node, "validate_inputs"):
            valid = node.validate_inputs(options=constants["options"])
            problems += [valid] if isinstance(valid, str) else []
        if problems:
            raise ValueError("; ".join(problems))
        clone = type(node.__name__, (node,), {"hidden": SimpleNamespace(unique_id=number)})
        output = clone.execute(**inputs)
        assert len(output.args) == len(schema.outputs)
        return (*output.args, output.ui) if output.ui else output.args

    def _load(self, image: str) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.folder / image) as opened:
            pixels = torch.from_numpy(np.array(opened.convert("RGB"), np.float32) / 255)[None]
        return pixels, torch.zeros(1, 64, 64)  # as of an image without alpha

    def _load_mask(self, image: str, channel: str) -> tuple[torch.Tensor]:
        assert channel == "red"
        return (self._load(image)[0][..., 0],)

    def _save(self, images: torch.Tensor, filename_prefix: str) -> tuple[()]:
        for index, image in enumerate(images):
            pixels = (255 * image.cpu().numpy()).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(self.folder / f"{filename_prefix}_{index + 1:05}_.png")
        return ()
