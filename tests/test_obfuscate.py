"""Function-preserving attacks on every model of the zoo, and the canonical form that undoes them."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from assay.attacks.obfuscate import Move, Obfuscate
from assay.attacks.relayer import merge_norm, norms_after, split_linear
from assay.core.errors import ConfigError, NotApplicable
from assay.core.suspects import Suspects, logits
from assay.experiments.api import build
from assay.experiments.people import Owner, owner
from assay.zoo.canonical import canonicalize
from assay.zoo.channels import layout, tensors
from assay.zoo.invariances import Dummy, grow, permute, random_order
from assay.zoo.models import Architecture, CnnSmall, Mlp, Resnet18, VitTiny

ZOO: dict[str, Architecture] = {
    "cnn_small": CnnSmall("net.block3.conv"),
    "mlp": Mlp(),
    "resnet18": Resnet18(),
    "vit_tiny": VitTiny(),
}
MOVES: dict[str, tuple[Move, ...]] = {
    "permute": ("permute",),
    "scale": ("scale",),
    "sign": ("sign",),
    "dummy": ("dummy",),
    "all": ("dummy", "permute", "scale", "sign"),
}
SHAPE = (1, 8, 8)
INPUTS = torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(5))


@cache
def lived_in(name: str, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    """A network whose batch norms have statistics and whose every parameter is its own."""
    model = ZOO[name].build(shape, 10, 3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        model.train()(torch.rand(64, *shape, generator=generator))
    return model.eval()


def obfuscated(model: nn.Module, moves: tuple[Move, ...], kind: Dummy = "zero") -> nn.Module:
    return Obfuscate(moves, kind=kind).obfuscated(model, 1.0, torch.Generator().manual_seed(6))


def error(one: nn.Module, other: nn.Module, inputs: Tensor = INPUTS) -> float:
    """Largest difference of the logits, as a share of the largest logit."""
    with torch.no_grad():
        a, b = one(inputs), other(inputs)
    return float((a - b).abs().max() / a.abs().max())


def changed(one: nn.Module, other: nn.Module) -> int:
    mine, theirs = tensors(one), tensors(other)
    return sum(t.shape != theirs[n].shape or not torch.equal(t, theirs[n]) for n, t in mine.items())


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("moves", MOVES)
def test_outputs_stay_and_weights_do_not(name: str, moves: str) -> None:
    model = lived_in(name)
    before = {n: t.clone() for n, t in tensors(model).items()}
    attacked = obfuscated(model, MOVES[moves])
    assert error(model, attacked) < 1e-5
    least = (
        12 if moves == "dummy" and name == "vit_tiny" else len(before) // 3
    )  # a ViT grows in its MLPs alone
    assert changed(model, attacked) >= least
    assert all(torch.equal(before[n], t) for n, t in tensors(model).items())


@pytest.mark.parametrize("name", ZOO)
def test_in_double_precision_nothing_but_rounding_is_left(name: str) -> None:
    model = copy.deepcopy(lived_in(name)).double()
    inputs = INPUTS.double()
    assert error(model, obfuscated(model, MOVES["all"], "clique"), inputs) < 1e-12
    assert error(model, canonicalize(model), inputs) < 1e-12


@pytest.mark.parametrize("kind", ["zero", "clique", "split"])
@pytest.mark.parametrize("name", ZOO)
def test_dummies_widen_layers_and_change_nothing(name: str, kind: Dummy) -> None:
    model = lived_in(name)
    attacked = obfuscated(model, ("dummy",), kind)
    assert error(model, attacked) < 1e-5
    mine, theirs = (sum(p.numel() for p in m.parameters()) for m in (model, attacked))
    assert theirs > 1.1 * mine
    attacked.train()(INPUTS)  # the layers know their new sizes: the copy can be trained


def test_scaling_works_on_colour_and_strided_stems() -> None:
    model = CnnSmall("net.block3.conv").build((3, 20, 20), 10, 1)
    inputs = torch.rand(8, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    model.train()(inputs)
    assert error(model.eval(), obfuscated(model, MOVES["all"], "split"), inputs) < 1e-5


@pytest.mark.parametrize(
    ("name", "moves"),
    [(n, m) for n in ZOO for m in ("permute", "scale", "sign", "all") if n != "resnet18" or m == "all"],
)
def test_copies_have_one_canonical_form(name: str, moves: str) -> None:
    model = lived_in(name)
    one, other = canonicalize(model), canonicalize(obfuscated(model, MOVES[moves], "clique"))
    assert error(model, one) < 1e-5
    found = tensors(other)
    for key, tensor in tensors(one).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(
                found[key], tensor, rtol=1e-5, atol=1e-6 * float(tensor.detach().abs().max())
            )


@pytest.mark.parametrize("kind", ["zero", "clique", "split"])
def test_the_canonical_form_has_no_dummies(kind: Dummy) -> None:
    for name in ("cnn_small", "mlp", "vit_tiny"):
        model = lived_in(name)
        again = canonicalize(obfuscated(model, ("dummy", "permute", "scale"), kind))
        assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]


def test_canonical_forms_of_different_models_differ() -> None:
    other = ZOO["cnn_small"].build(SHAPE, 10, 99).eval()
    assert changed(canonicalize(lived_in("cnn_small")), canonicalize(other)) > 3


def test_the_canonical_form_is_its_own() -> None:
    once = canonicalize(lived_in("mlp"))
    twice = canonicalize(once)
    for key, tensor in tensors(once).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensors(twice)[key], tensor, rtol=1e-5, atol=1e-6)


def test_the_residual_stream_of_a_resnet_is_one_group() -> None:
    """A sum ties the orders of its terms: 4 streams (one per width), and 8 orders inside the blocks."""
    groups = layout(lived_in("resnet18")).groups
    assert len(groups) == 12
    stem = next(g for g in groups if g.writers[0].tensor == "net.conv1.weight")
    convs = [s.tensor for s in stem.writers if "conv" in s.tensor]
    assert convs == ["net.conv1.weight", "net.layer1.0.conv2.weight", "net.layer1.1.conv2.weight"]


def test_a_classifier_of_tokens_reads_heads_and_hidden_units() -> None:
    groups = layout(lived_in("vit_tiny")).groups
    assert sorted(group.count for group in groups) == sorted([64] + 4 * [64, 64, 4, 256])


class Tangled(nn.Module):
    """Its layers' outputs are multiplied: no factor and no order is free."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = self.one(x) * self.other(x)
        return product


def test_networks_without_free_channels_are_refused() -> None:
    with pytest.raises(NotApplicable, match="no hidden channels"):
        layout(Tangled())
    with pytest.raises(NotApplicable, match="no hidden channels"):
        layout(nn.Sequential(nn.Linear(4, 2)))
    with pytest.raises(NotApplicable, match="allows sign"):
        obfuscated(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), ("sign",))


def test_smooth_functions_let_the_order_change_but_not_the_scale() -> None:
    found = layout(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)))
    assert len(found.groups) == 1
    assert not found.scales


def test_a_layer_that_runs_twice_stays_as_it_is() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(NotApplicable):
        layout(model)


def test_layers_split_and_merged_compute_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    for sizes in ((6, 3), (3, 6), (4, 4)):
        layer = nn.Linear(*sizes).double()
        inputs = torch.rand(5, sizes[0], dtype=torch.float64)
        assert error(layer, split_linear(layer, generator), inputs) < 1e-12
    model = copy.deepcopy(lived_in("resnet18"))
    pairs = norms_after(model)
    assert len(pairs) == 20
    for layer_name, norm in pairs:
        merge_norm(model.get_submodule(layer_name), model.get_submodule(norm))
        parent, _, child = norm.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
    assert error(lived_in("resnet18"), model) < 1e-5


@cache
def marked(scheme: str) -> Owner:
    return owner(build(f"watermark={scheme}", "trainer.progress=false"), "owner")


def log10_p(scheme: str, model: nn.Module) -> float:
    it = build(f"watermark={scheme}", "trainer.progress=false")
    p_MK = it.watermark.score(Suspects([model]), [marked(scheme).key]).log10_p_MK
    assert p_MK is not None
    return float(p_MK[0, 0])


@pytest.mark.slow
def test_uchida_is_bound_to_its_layers_inputs_not_to_its_filters() -> None:
    """The mean over filters does not see their order; the order of the channels that the layer reads is the key's own."""
    owned = marked("uchida").marked
    assert log10_p("uchida", owned) < -70
    generator = torch.Generator().manual_seed(1)
    for read, limit in ((False, -70.0), (True, -3.0)):
        model = copy.deepcopy(owned)
        slots = [(g, g.readers if read else g.writers) for g in layout(model).groups]
        group = next(g for g, s in slots if any(slot.tensor == "net.block3.conv.weight" for slot in s))
        permute(model, group, random_order(group, generator))
        found = log10_p("uchida", model)
        assert found > limit if read else found < limit


@pytest.mark.slow
def test_what_each_move_does_to_uchida() -> None:
    """Measured: permuted or scaled inputs, or a wider layer, and the mark cannot be read; adi reads answers, and stays."""
    owned = marked("uchida").marked
    assert log10_p("uchida", obfuscated(owned, ("permute",))) > -3
    assert log10_p("uchida", obfuscated(owned, ("dummy",))) == 0  # another shape: unreadable
    assert log10_p("adi", obfuscated(marked("adi").marked, MOVES["all"])) < -60


@pytest.mark.slow
def test_a_marks_owner_who_reads_canonical_forms_finds_the_obfuscated_copy() -> None:
    """The counter-measure: the mark's bits as the marked model's canonical form shows them are those of every copy's."""
    it = build("watermark=uchida", "trainer.progress=false")
    owned, copied = marked("uchida").marked, obfuscated(marked("uchida").marked, MOVES["all"], "clique")
    forms = Suspects([canonicalize(owned), canonicalize(copied)])
    keys = [it.watermark.keygen(it.task, it.secret("any", k), owned) for k in range(5)]
    hits_MK = it.watermark.score(forms, keys).statistic_MK
    assert (hits_MK[0] == hits_MK[1]).all()
    assert torch.allclose(logits(owned, it.task.test.inputs), logits(copied, it.task.test.inputs), atol=1e-3)


@pytest.mark.slow
def test_a_mark_in_the_canonical_form_outlives_every_move_and_not_fine_tuning() -> None:
    """Measured: each copy shows the very same bits; but training on at .05 moves channels past each other, and they are gone (log10
    p -.0, -.1, -.5 of seeds 0, 1, 2; at .01 between -12 and -24)."""
    it, owned = build("watermark=canonical", "trainer.progress=false"), marked("canonical")
    copies = [obfuscated(owned.marked, moves, "clique") for moves in MOVES.values()]
    tuned = it.trainer("thief")(
        owned.marked, it.task.attacker, recipe=replace(it.task.recipe, lr=0.05, epochs=5)
    )
    scores = it.watermark.score(Suspects([owned.marked, *copies, tuned]), [owned.key])
    assert scores.log10_p_MK is not None
    assert (scores.statistic_MK[1:-1] == scores.statistic_MK[0]).all()
    assert scores.log10_p_MK[0, 0] < -15
    assert scores.log10_p_MK[-1, 0] > -3
    with pytest.raises(ConfigError, match="scheme that reads one layer"):
        build("watermark=canonical", "watermark@watermark.scheme=adi_derived")


def test_grow_pairs_and_shares_weights_as_it_says() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    (group,) = layout(model).groups
    grow(model, group, 2, "clique", torch.Generator().manual_seed(2))
    first, second = tensors(model)["0.weight"], tensors(model)["2.weight"]
    assert torch.equal(first[4], first[5])
    assert torch.equal(second[:, 4], -second[:, 5])


def test_a_split_leaves_the_global_random_state_alone() -> None:
    layer, before = nn.Linear(4, 3), torch.get_rng_state()
    split_linear(layer, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
