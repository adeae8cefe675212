"""Named recipes: values of options, and for each value where it comes from. Data only.

Five existing systems are named by what they do (S0 to S4 in docs/seed-systems.md). Each sets every option
that decides the picture, so that a change of the program's own defaults does not change a recipe. The looks are ours:
they say what differs from ``painterly``, which sets nothing and is whatever :mod:`nst_fast.options.config` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from nst_fast.errors import UsageError, nearest

STATED = "stated by the document"
USUAL = "field's usual value"
OURS = "ours"


@dataclass(frozen=True)
class Setting:
    """The value of one option, and its source: ``STATED``, ``USUAL`` or ``OURS``, with details after a colon."""

    value: str | int | float
    source: str


@dataclass(frozen=True)
class Preset:
    """A recipe: what it is in one line, its settings by option name, and which system it follows, if any."""

    name: str
    summary: str
    settings: Mapping[str, Setting]
    system: str = ""

    @property
    def values(self) -> dict[str, str | int | float]:
        return {name: setting.value for name, setting in self.settings.items()}


def _settings(kind: str, detail: str = "", /, **values: str | int | float) -> dict[str, Setting]:
    return {name: Setting(value, f"{kind}: {detail}" if detail else kind) for name, value in values.items()}


stated, usual, ours = (partial(_settings, kind) for kind in (STATED, USUAL, OURS))


TORCH_TUTORIAL = "the PyTorch tutorial"
KERAS_EXAMPLE = "the Keras example"
GATYS = "Gatys et al. 2016"
BLOCK_STARTS = "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1"
BLOCK_ENDS = "conv1_2,conv2_2,conv3_4,conv4_4,conv5_4"
KERAS_WEIGHTS = Setting("original", f"{STATED}: VGG-19 of Keras, which has converted the original weights")
TORCHVISION_WEIGHTS = Setting("imagenet", f"{STATED}: VGG-19 of torchvision")

# What a recipe means when it does not mention the matter at all: nothing is added.
PLAIN = {
    **usual("as the network was trained", network="vgg19", pooling="max", padding="zeros"),
    **usual("what the pretrained network expects", input_normalization="imagenet"),
    **usual("not part of the recipe", tv_weight=0.0, smooth_every=0, noise=0.0, color="none", denoise=0.0),
    **usual("not part of the recipe", average_decay=0.0, chroma_tv_weight=0.0),
    **usual("not part of the recipe", histogram_weight=0.0, edge_weight=0.0),
    **usual("Gatys et al. 2016", style_loss="gram", content_loss="features", sliced_directions="fixed"),
    **usual("one size throughout", scales=1, style_scale=1.0, content_fit="keep", style_fit="keep"),
    **usual("not part of the recipe: a style image is taken as it is", style_crop="none"),
    **usual("not part of the recipe: a picture ends at its sides", seamless="none"),
    **usual("not part of the recipe: what is transparent is not seen", transparency="keep"),
    **usual("not part of the recipe: one region, all of it", region="", map="", content_mask="", style_mask=""),
    **usual("constant", schedule="constant", decay_rate=1.0, decay_steps=1, final_learning_rate=1.0),
    **usual("Kingma & Ba 2015", adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8),
    **usual("torch.optim.LBFGS", lbfgs_history=100, line_search="none"),
    **ours("as in every preset unless stated", seed=0, strength=1.0),
    **ours(
        "nothing is logged or saved unless stated", log_every=0, log_format="plain", save_every=0, save_format="same"
    ),
}

SMOOTHING = Preset(
    "adam-smoothing",
    "Adam from the content image, total variation, and average-pool smoothing every 251st step",
    {
        **PLAIN,
        **stated(network="vgg19", image_size=224, init="content"),
        "weights": KERAS_WEIGHTS,
        **usual(KERAS_EXAMPLE, content_taps="relu5_2", style_taps=BLOCK_STARTS),
        **ours(
            "weights are 'tunable' there; relative losses need no retuning across networks",
            content_normalization="relative",
            gram_normalization="hw",
            style_normalization="relative",
            content_weight=1.0,
            style_weight=100.0,
            tv_weight=10.0,
        ),
        **stated(optimizer="adam", schedule="exponential"),
        **usual("TensorFlow's tutorial", learning_rate=0.02, steps=1000),
        **usual(KERAS_EXAMPLE, decay_rate=0.96, decay_steps=100),
        **stated("501 was tried too", smooth_every=251),
        **stated(save_every=100, save_format="png"),
    },
    "S0",
)

WEIGHTED = Preset(
    "weighted-layers",
    "Adam on content plus noise, style layers weighted from 1.0 to 0.1, pixels unnormalised",
    {
        **PLAIN,
        **stated(network="vgg19", input_normalization="none"),
        "weights": KERAS_WEIGHTS,
        **stated("400 x 400", image_size=400),
        **stated(content_fit="square", style_fit="match"),
        **stated(content_taps="relu5_4:1.0", style_taps="relu1_1:1.0,relu2_1:0.8,relu3_1:0.7,relu4_1:0.2,relu5_1:0.1"),
        **stated("1 / (4 H W C)", content_normalization="size"),
        **stated("A A^T unnormalised", gram_normalization="none"),
        **stated("1 / (4 (H W C)^2)", style_normalization="gatys"),
        **stated("alpha", content_weight=100.0),
        **stated("beta", style_weight=10.0),
        **stated(optimizer="adam", learning_rate=0.03, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8),
        **stated(init="content+noise", noise=0.8, seed=272),
        **stated("epochs of one step", steps=1001),
        **stated(save_every=250, save_format="jpg", log_every=250, log_format="epoch"),
    },
    "S1",
)

# What both starts of S2 have in common.
PRE_RELU = {
    **PLAIN,
    **stated(network="vgg19"),
    "weights": TORCHVISION_WEIGHTS,
    **stated("content block 3, before the ReLU", content_taps="conv3_4"),
    **stated("style blocks 1-5, before the ReLU", style_taps=BLOCK_ENDS),
    **stated("1/2 sum; with a mean, its practice, no content is left", content_normalization="half_sum"),
    **stated("summed over positions", gram_normalization="none"),
    **stated("1 / (4 N^2 M^2)", style_normalization="gatys"),
    **stated(optimizer="lbfgs"),
    **usual(TORCH_TUTORIAL, learning_rate=1.0, steps=300),
    **ours("a half sum grows with the picture; at this size the stated weights balance", image_size=256),
}

NOISE_START = Preset(
    "lbfgs-noise",
    "L-BFGS from noise, losses before the ReLU",
    {**PRE_RELU, **stated(init="noise", content_weight=100.0, style_weight=1e6)},
    "S2",
)

CONTENT_START = Preset(
    "lbfgs-content",
    "L-BFGS from the content image, losses before the ReLU",
    {**PRE_RELU, **stated(init="content", content_weight=10.0, style_weight=1e7)},
    "S2",
)

CLASSIC = Preset(
    "classic",
    "The field's plain recipe, and its post-processing: content's colours, noise reduction",
    {
        **PLAIN,
        **ours(
            f"{GATYS} normalised the original to mean activations of 1; torchvision's are near that", weights="imagenet"
        ),
        **usual(GATYS, content_taps="relu4_2", style_taps=",".join(f"relu{block}_1:0.2" for block in range(1, 6))),
        **usual("a mean, so that the balance does not depend on the size", content_normalization="mean"),
        **stated("A A^T", gram_normalization="none"),
        **usual(f"{GATYS}, equation 4", style_normalization="gatys"),
        **usual(f"{GATYS}, alpha / beta = 1e-3", content_weight=1.0, style_weight=1e3),
        **usual(f"{GATYS}; any, the document says", optimizer="lbfgs"),
        **stated("content or noise", init="content"),
        **usual(f"{GATYS}, their published code", image_size=512, steps=500),
        **usual("torch.optim.LBFGS", learning_rate=1.0),
        **stated("colour adjustment of the final output; this kind of it is ours", color="keep"),
        **stated("noise reduction of the final output; the strength is ours", denoise=0.3),
    },
    "S3",
)

TUTORIAL = Preset(
    "tutorial",
    "The PyTorch tutorial: mean squared errors, Gram over C H W, weights 1 and 1e6, L-BFGS",
    {
        **PLAIN,
        **stated("to be compared with vgg16", network="vgg19"),
        "weights": TORCHVISION_WEIGHTS,
        **stated(style_fit="match", optimizer="lbfgs"),
        **usual(f"conv_4 of {TORCH_TUTORIAL}", content_taps="conv2_2"),
        "style_taps": Setting(
            "conv1_1,conv1_2,conv2_1,conv2_2,conv3_1", f"{USUAL}: conv_1 to conv_5 of {TORCH_TUTORIAL}"
        ),
        **stated(content_normalization="mean", style_normalization="mean"),
        **usual(f"{TORCH_TUTORIAL}; 10 times the content weight was tried too", content_weight=1.0),
        **usual(TORCH_TUTORIAL, gram_normalization="chw", style_weight=1e6),
        **usual(TORCH_TUTORIAL, learning_rate=1.0, init="content", image_size=512),
        **stated("1000 was tried too", steps=300),
        **stated(log_every=25, log_format="run"),
    },
    "S4",
)

PAINTERLY = Preset("painterly", "The default: the scene is kept, its manner is the painting's", {})

FAITHFUL = Preset(
    "faithful",
    "The scene first: every window and face stays, in the painting's colours and strokes",
    ours("a third of the default's style, at one size: coarse ones move shapes", style_weight=1.5, scales=1),
)

BOLD = Preset(
    "bold",
    "The painting first: its larger forms take hold of the scene",
    ours(
        "deep taps and a coarser start bring the painting's own shapes",
        style_weight=20.0,
        style_taps="relu1_1,relu2_1,relu3_1,relu4_1,relu5_1:0.2",
        min_size=128,
    ),
)

PRINT = Preset(
    "print",
    "Flat areas and clean edges, for woodcuts, posters and screen prints",
    ours("ink has no noise of luminance or colour within an area", tv_weight=8.0, chroma_tv_weight=80.0),
)

SKETCH = Preset(
    "sketch",
    "Line drawings: the content's lines in the strokes of a drawing",
    {
        **ours("a drawing is lines: content by its edges, style by its strokes", content_taps="relu3_2,relu4_2"),
        **ours("strokes are in the shallow taps", style_weight=10.0, style_taps="relu1_1,relu2_1,relu3_1"),
        **ours("paper and ink have no colours to match", init="content", chroma_tv_weight=200.0),
    },
)

LOOKS = (PAINTERLY, FAITHFUL, BOLD, PRINT, SKETCH)
SYSTEMS = (SMOOTHING, WEIGHTED, NOISE_START, CONTENT_START, CLASSIC, TUTORIAL)
PRESETS = {preset.name: preset for preset in (*LOOKS, *SYSTEMS)}

# Beside a command's own, the options of the first panel of its help, in this order; the others are in titled panels.
FIRST = ("image_size", "quality", "preset", "strength", "color", "style_scale", "steps", "seed", "device")
# Values of `quality`: speed or finish, for any recipe.
QUALITIES: Mapping[str, Mapping[str, int]] = {"draft": {"steps": 60}, "normal": {"steps": 150}, "best": {"steps": 400}}


def find_quality(name: str) -> dict[str, int]:
    """The options of a quality; an unknown one raises :class:`UsageError`."""
    if name not in QUALITIES:
        raise UsageError(f"`quality` {name!r}: must be one of {', '.join(QUALITIES)}", nearest(name, QUALITIES))
    return dict(QUALITIES[name])
