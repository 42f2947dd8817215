"""The checks of the conformance kit: what the split and its proof rely on, one small function each.

The first line of each docstring says why. Each check yields one line per fault: where, what was expected, what to do.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...grid.errors import NetworkError
from ...grid.route import Route
from ...grid.topology import Cell
from ..config_json import from_json, to_json
from ..cost import measure_costs
from ..network import Features, HeadConfig
from ..shift import WholeShift
from .subject import OFF, Subject, Watch, call, chain, cut, gap, join, unlike

MATTERS = 1e-6  # least effect, as a share of a tensor's largest value


def builds(subject: Subject) -> Iterator[str]:
    """Everything starts from a name and a configuration: the registry must return the network that they describe."""
    blocks, heads = len(subject.untrained.blocks), subject.untrained.head_blocks
    if not isinstance(heads, tuple) or list(heads) != sorted(set(heads) & set(range(blocks))):
        yield f"head_blocks is {heads!r}: expected a tuple of blocks of 0..{blocks - 1}, ascending"
    elif blocks - 1 not in heads:
        yield f"head_blocks is {heads}: the last block, {blocks - 1}, must carry a head, for it always answers"


def features(subject: Subject) -> Iterator[str]:
    """A block's features become the ports of a subgraph: a tuple of new tensors [batch * frames, C, H, W]."""
    shapes: dict[int, list[torch.Size]] = {}
    for batch, frames in ((1, 1), (2, 3)):
        rows: Features = (subject.frames(batch, frames).float().flatten(0, 1),)
        for block, module in enumerate(subject.untrained.blocks):
            given = tuple(x.clone() for x in rows)
            rows = copy.deepcopy(module)(given, WholeShift(OFF, block, frames))
            if not isinstance(rows, tuple) or not rows or not all(isinstance(x, Tensor) for x in rows):
                yield f"block {block} returned a {type(rows).__name__}: expected a tuple of tensors"
                return
            if bad := [tuple(x.shape) for x in rows if x.ndim != 4 or x.shape[0] != batch * frames]:
                yield f"block {block} made {bad} of {batch} x {frames} frames: expected [{batch * frames}, C, H, W]"
                return
            if [x.shape[1:] for x in rows] != shapes.setdefault(block, [x.shape[1:] for x in rows]):
                yield f"block {block}: channels, height or width depend on how many frames it gets"
            if len({id(x) for x in (*rows, *given)}) < len(rows) + len(given):
                yield f"block {block} returns a feature twice or passes one through: compute it, or leave it out"


def finite(subject: Subject) -> Iterator[str]:
    """NaN or infinity never names a class."""
    for block, out in enumerate(subject.rough[1:]):
        if bad := [i for i, x in enumerate(out) if not x.isfinite().all()]:
            yield f"block {block}: features {bad} hold NaN or infinity for finite frames"


def repeatable(subject: Subject) -> Iterator[str]:
    """In eval mode nothing may be random (dropout, noise), or no split can agree with the whole."""
    for block, videos in enumerate(subject.rough[:-1]):
        first, again = (call(subject.untrained.blocks[block], videos, WholeShift(OFF, block, 3)) for _ in "12")
        if not all(map(torch.equal, first, again)):
            yield f"block {block} gives two answers for one input in eval mode: use randomness in training only"


def stateless(subject: Subject) -> Iterator[str]:
    """A block is called for many videos in turn: anything that one leaves on the module would reach the next."""
    others = chain(subject.untrained, subject.frames(4, 3)[2:].float(), OFF)
    for block, module in enumerate(subject.untrained.blocks):
        module = copy.deepcopy(module)
        before = copy.deepcopy(module.state_dict())
        calls = [
            module(tuple(x.flatten(0, 1).clone() for x in each[block]), WholeShift(OFF, block, 3))
            for each in (subject.rough, others, subject.rough)
        ]
        if not all(map(torch.equal, calls[0], calls[2])):
            yield f"block {block} answers differently after another video: only shift may carry anything on"
        after = module.state_dict()
        if changed := [name for name, value in before.items() if not torch.equal(value, after[name])]:
            yield f"block {block} changes {', '.join(changed)} in eval mode: update buffers in training only"


def heads(subject: Subject) -> Iterator[str]:
    """A head embeds each frame once, by itself, as [batch * frames, width]; the subgraph's ports state that width."""
    own = subject.config.head
    for block in subject.backbone.head_blocks:
        rows = subject.rough[block + 1][-1].flatten(0, 1).double()
        for head in (own, HeadConfig("conv", 12), HeadConfig("linear")):
            try:
                embed, width = subject.backbone.embedding(block, head)
            except NetworkError:  # a style that this network explicitly does not support
                if head == own:
                    raise
                continue
            what = f"embedding of block {block}, style {head.style}, width {head.width}"
            embed = embed.double().eval()
            got = embed(given := rows.clone())
            if tuple(got.shape) != (len(rows), width):
                yield f"{what}: {tuple(got.shape)} of {len(rows)} frames, expected ({len(rows)}, {width}), as promised"
                continue
            if head.style == "conv" and head.width not in (None, width):
                yield f"{what}: promises width {width}; make it as wide as asked, or raise NetworkError"
            if not torch.equal(given, rows):
                yield f"{what}: changes the block's features in place, which the next block reads"
            yield from unlike(f"{what}, a frame alone", (embed(rows[:1].clone()),), (got[:1],))


def shift_points(subject: Subject) -> Iterator[str]:
    """A shifted layer's name becomes its state's port: unique in a block, and the same for any number of frames."""
    sizes = ((1, 1), (2, 3), (1, subject.num_frames))
    found: list[list[list[str]]] = [[] for _ in sizes]  # names by size and block
    for size, (batch, frames) in enumerate(sizes):
        videos: Features = (subject.frames(batch, frames).float(),)
        for block, module in enumerate(subject.untrained.blocks):
            watch = Watch(block, frames)
            videos = call(module, videos, watch)
            found[size].append([point for point, _ in watch.calls])
            if bad := [c for c in watch.calls if len(c[1]) != 4 or c[1][0] != batch * frames]:
                yield f"block {block} shifts {bad[0]}: expected [{batch * frames}, C, H, W], all frames of its input"
        if found[size] != found[0]:
            yield (
                f"shift points of {batch} x {frames} frames: {found[size]}, of 1 x 1: {found[0]}; "
                "name layers, not calls"
            )
    for block, points in enumerate(found[0]):
        if twice := sorted({p for p in points if points.count(p) > 1}):
            yield f"block {block} uses shift points {twice} more than once: give every shifted layer its own name"
        if odd := [p for p in points if not re.fullmatch(r"[\w.-]+", p)]:
            yield f"block {block} has shift points {odd}: expected letters, digits, '_', '.', '-'"
    have = [f"{block}.{point}" for block, points in enumerate(found[0]) for point in points]
    if subject.config.shift.enabled and not any(map(subject.config.shift.shifts, have)):
        yield "no block calls shift, so no frame sees another: call it, or say shift.enabled false"


def initialises(subject: Subject) -> Iterator[str]:
    """A proof on untrained weights needs ``initialise``, which is one pass in training mode."""
    if bad := [name for name, value in subject.network.state_dict().items() if not value.isfinite().all()]:
        yield f"{', '.join(bad[:4])} ({len(bad)} tensors) hold NaN or infinity after one pass in training mode"


def dtype(subject: Subject) -> Iterator[str]:
    """Exports are also made in half precision, so features must keep the dtype of the input (no .float())."""
    for kind, device in ((torch.float64, "cpu"), (torch.float16, "meta")):
        network = copy.deepcopy(subject.untrained).to(device, kind)
        for block, out in enumerate(chain(network, subject.frames(1, 2).to(device, kind), subject.config.shift)[1:]):
            if wrong := {x.dtype for x in out} - {kind}:
                yield f"block {block} makes {wrong.pop()} of {kind}: leave types alone, in constants too"


def inputs_kept(subject: Subject) -> Iterator[str]:
    """A block's input is also its head's, and other spans read it again, so in-place operations would change it."""
    for block, module in enumerate(subject.network.blocks):
        rows = tuple(x.flatten(0, 1).clone() for x in subject.videos[block])
        copy.deepcopy(module)(rows, WholeShift(subject.config.shift, block, subject.num_frames))
        for i, (now, was) in enumerate(zip(rows, subject.videos[block], strict=True)):
            if not torch.equal(now, was.flatten(0, 1)):
                yield f"block {block} changes its input {i} in place: use the operation that returns a new tensor"


def shift_online(subject: Subject) -> Iterator[str]:
    """The split runs a video in pieces: one frame per call, ragged pieces and one call must equal the whole."""
    total = subject.num_frames
    for block, videos in enumerate(subject.videos[:-1]):
        ends: list[dict[str, Tensor]] = []
        for sizes in ((total,), subject.pieces, (1,) * total):
            states: dict[str, Tensor] | None = None
            parts: list[Features] = []
            for piece in cut(videos, sizes, 1):
                out, states = subject.stateful(block, piece, states)
                parts.append(out)
            what = f"block {block} in pieces of {', '.join(map(str, sizes))} frames"
            yield from unlike(what, join(parts, 1), subject.videos[block + 1])
            ends.append(states or {})
            yield from unlike(f"{what}, states", tuple(ends[-1].values()), tuple(ends[0].values()))


def shift_matters(subject: Subject) -> Iterator[str]:
    """A state that changes nothing is carried in vain, and its loss would never be noticed."""
    half = subject.num_frames // 2
    for block, videos in enumerate(subject.videos[:-1]):
        _, states = subject.stateful(block, tuple(x[:, :half] for x in videos), None)
        rest = tuple(x[:, half:] for x in videos)
        plain, _ = subject.stateful(block, rest, states)
        for name, state in states.items():
            noise = torch.randn(state.shape, generator=torch.Generator().manual_seed(1), dtype=state.dtype)
            other, _ = subject.stateful(block, rest, {**states, name: state + noise})
            if not max(map(gap, other, plain)) > MATTERS:
                yield f"shift point {name}: another state gives the same features: use what shift returns"


def causal(subject: Subject) -> Iterator[str]:
    """An answer after n input sets cannot know later frames: a block may look back, through shift, but never ahead."""
    for block, videos in enumerate(subject.videos[:-1]):
        for t in (1, subject.num_frames // 2, subject.num_frames - 1):
            changed = tuple(torch.cat([x[:, :t], x[:, t:].flip(0) + x.std()], dim=1) for x in videos)
            before = cut(subject.whole(block, changed), t, 1)[0]
            what = f"block {block}, frames before {t} when frame {t} and later ones change"
            yield from unlike(what, before, cut(subject.videos[block + 1], t, 1)[0])


def frames_apart(subject: Subject) -> Iterator[str]:
    """Frames affect each other only through shift: with shift off, a frame among others equals that frame alone."""
    for block, (module, videos) in enumerate(zip(subject.network.blocks, subject.videos, strict=False)):
        together = call(module, videos, WholeShift(OFF, block, subject.num_frames))
        alone = [call(module, frame, WholeShift(OFF, block, 1)) for frame in cut(videos, 1, 1)]
        yield from unlike(f"block {block}, shift off, every frame alone", join(alone, 1), together)


def videos_apart(subject: Subject) -> Iterator[str]:
    """Videos share a batch by chance: one alone must equal itself among others."""
    for block, videos in enumerate(subject.videos[:-1]):
        alone = [subject.whole(block, video) for video in cut(videos, 1, 0)]
        yield from unlike(f"block {block}, every video alone", join(alone, 0), subject.videos[block + 1])


def route(subject: Subject) -> Iterator[str]:
    """The split itself: blocks and heads run segment by segment must answer as the whole network does."""
    grid, size = subject.config.grid, subject.config.grid.frames_per_set
    routes = [subject.config.route]
    if subject.config.head.share_classifier:  # the heads serve any route: one of small steps, two on each block
        steps = [(2 * i + step, m) for i, m in enumerate(subject.config.heads) for step in (0, 1)]
        routes.append(tuple(dict.fromkeys(Cell(min(n, grid.input_sets - 1), m) for n, m in steps)))
    frames = subject.frames(2, grid.num_frames)
    for cells in routes:
        network = copy.deepcopy(subject.network).with_route(Route(grid, cells))
        whole = copy.deepcopy(network)(frames)
        done: list[list[Features]] = [[(frames,)], *([] for _ in network.blocks)]
        states: dict[int, dict[str, Tensor] | None] = {}
        for segment, checkpoint in zip(network.route.segments, network.route.checkpoints, strict=True):
            for span in segment.spans:
                window = slice(span.start * size, span.stop * size)
                given = tuple(x[:, window] for x in join(done[span.block], 1))
                state = None if span.start == grid.border else states.get(span.block)
                out, states[span.block] = subject.stateful(span.block, given, state)
                done[span.block + 1].append(out)
            (final, block), head = checkpoint.cell, network.head(checkpoint.cell.block)
            rows = join(done[block + 1], 1)[-1][:, : (final + 1) * size]
            mean = head.embed(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]).mean(1)
            logits = head.classifiers[network.classifier_name(checkpoint.index)](mean)
            if tuple(logits.shape) != (2, subject.config.classes):
                yield f"checkpoint {checkpoint.index}: {tuple(logits.shape)}, expected (2, {subject.config.classes})"
            what = f"checkpoint at {checkpoint.cell} of route {' '.join(map(str, cells))}, run in segments"
            yield from unlike(what, (logits,), (whole[checkpoint.index - 1],))


def costs(subject: Subject) -> Iterator[str]:
    """Budgets are in multiply-adds, counted on meta tensors; ``paper_macs`` is one increasing number per block."""
    measure_costs(subject.untrained)
    paper = subject.untrained.paper_macs(subject.config.preprocessing.crop, subject.config.classes)
    if paper is None:
        return
    blocks = len(subject.untrained.blocks)
    if len(paper) != blocks or any(b <= a for a, b in zip((0, *paper), paper, strict=False)):
        yield f"paper_macs is {paper}: expected None, or {blocks} positive numbers, each above the one before"


def parameters(subject: Subject) -> Iterator[str]:
    """Training must reach every parameter: one that no answer depends on is trained, stored and shipped in vain."""
    network = subject.network
    rows: Features = (subject.frames(1, 2).flatten(0, 1),)
    total = torch.zeros((), dtype=torch.float64)
    with torch.enable_grad():
        for block, module in enumerate(network.blocks):
            rows = module(rows, WholeShift(subject.config.shift, block, 2))
            if str(block) in network.heads:
                mean = network.head(block).embed(rows[-1]).mean(0)
                total = total + sum(linear(mean).sum() for linear in network.head(block).classifiers.values())
        total = total + (0 if str(block) in network.heads else sum(x.sum() for x in rows))
        named = {name: value for name, value in network.named_parameters() if value.requires_grad}
        found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    if unused := [name for name, gradient in zip(named, found, strict=True) if gradient is None]:
        yield f"no answer depends on {', '.join(unused[:4])} ({len(unused)} parameters): use them or remove them"


def reload(subject: Subject) -> Iterator[str]:
    """A training checkpoint holds the configuration as JSON and the state_dict, which must be the whole network."""
    config = from_json(json.loads(json.dumps(to_json(subject.config))))
    other = subject.build(config, subject.seed + 1).double()
    other.load_state_dict(subject.network.state_dict())
    again = chain(other, subject.videos[0][0], subject.config.shift)
    for block, (got, expected) in enumerate(zip(again[1:], subject.videos[1:], strict=True)):
        yield from unlike(f"block {block} after saving and loading (register every tensor)", got, expected)


Check = Callable[[Subject], Iterator[str]]
# every later check builds on these
FOUNDATIONS: tuple[Check, ...] = (
    builds, features, finite, repeatable, stateless, heads, shift_points, initialises, dtype,
)  # fmt: skip
CHECKS: tuple[Check, ...] = (
    *FOUNDATIONS,
    inputs_kept,
    shift_online,
    shift_matters,
    causal,
    frames_apart,
    videos_apart,
    route,
    costs,
    parameters,
    reload,
)
