import torch
from bitsandbytes.functional import quantize_4bit
from hypothesis import given, settings
from hypothesis import strategies as st

from ftframe.models.lora_products import BorderedProducts, Product, WideProduct, beside

SIZES = st.integers(1, 70)


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30)
@given(rows=st.integers(1, 9), left=st.integers(1, 130), right=SIZES)
def test_beside_is_cat(rows, left, right):
    parts = torch.randn(rows, left), torch.randn(rows, right)
    assert torch.equal(beside(*parts), torch.cat(parts, 1))


@settings(max_examples=50)
@given(tokens=st.integers(1, 9), width=SIZES, rank=st.integers(1, 9), sizes=st.lists(SIZES, min_size=1, max_size=3))
def test_bordered_products_and_their_gradients_are_those_of_the_formula(tokens, width, rank, sizes):
    leaves = [
        draw(*shape, seed=seed) for seed, shape in enumerate([(2, tokens, width), (rank, width), (sum(sizes), rank)])
    ]
    weight = draw(sum(sizes), width, seed=3)
    wide = torch.cat([weight, leaves[2]], 1)
    first, others = wide[: sizes[0]], wide[sizes[0] :]
    bordered = torch.cat([first, torch.cat([leaves[1], torch.zeros(rank, rank)], 1), others])
    gradient = draw(2, tokens, sum(sizes), seed=4)

    def found(input, down, up):
        return torch.cat(BorderedProducts.apply(input, down, up, bordered, sizes), -1)

    def formula(input, down, up):
        return input @ weight.t() + input @ down.t() @ up.t()

    results = []
    for function in (found, formula):
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        output = function(*inputs)
        results.append([output.detach(), *torch.autograd.grad(output, inputs, gradient)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs)


def of_formula(input, low, up, weight, gradient):
    output = input @ weight.t() + low @ up.t()
    return [output.detach(), *torch.autograd.grad(output, [input, low, up], gradient)]


@settings(max_examples=30)
@given(tokens=st.integers(1, 9), width=st.sampled_from([64, 128, 192]), rank=st.integers(1, 9), out=SIZES)
def test_products_and_their_gradients_are_those_of_the_formula(tokens, width, rank, out):
    shapes = [(2, tokens, width), (2, tokens, rank), (out, rank)]
    input, low, up = (draw(*shape, seed=seed).float().requires_grad_() for seed, shape in enumerate(shapes))
    packed, state = quantize_4bit(draw(out, width, seed=3).float(), quant_type="nf4")
    weight = state.code[torch.stack([packed >> 4, packed & 15], -1).view(out, -1, 64).int()] * state.absmax.view(
        out, -1, 1
    )
    weight = weight.view(out, width)
    gradient = draw(2, tokens, out, seed=4).float()
    expected = of_formula(input, low, up, weight, gradient)
    wide = torch.cat([weight, up.detach()], 1)
    for output in (Product.apply(input, low, up, packed, state), WideProduct.apply(input, low, up, wide)):
        found = [output.detach(), *torch.autograd.grad(output, [input, low, up], gradient)]
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
