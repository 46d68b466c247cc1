"""The closed forms of `search_spaces.cost`, by hand."""

from search_spaces.cost import (
    attention_products,
    conv2d,
    depthwise_conv2d,
    linear,
    norm,
    self_attention,
    time_residual,
    total,
)
from search_spaces.space import Cost


def test_a_convolution_costs_its_weights_at_every_output_position() -> None:
    assert conv2d(3, 8, 5, area=7) == Cost(5 * 5 * 3 * 8 + 8, 5 * 5 * 3 * 8 * 7)
    assert conv2d(4, 8, 3, area=1, groups=2, bias=False) == Cost(9 * 2 * 8, 9 * 2 * 8)
    assert depthwise_conv2d(6, 3, area=10) == Cost(9 * 6 + 6, 9 * 6 * 10)


def test_a_linear_layer_costs_its_weights_for_every_token() -> None:
    assert linear(4, 5) == Cost(25, 20)
    assert linear(4, 5, tokens=3, bias=False) == Cost(20, 60)


def test_norms_cost_parameters_and_attention_products_cost_macs_alone() -> None:
    assert norm(7) == Cost(14, 0)
    assert attention_products(2, 3, 5) == Cost(0, 2 * 2 * 3 * 5)


def test_self_attention_has_the_published_closed_form() -> None:
    c, s = 64, 8
    assert self_attention(c, area=s * s) == Cost(4 * c * c + 6 * c, 4 * c * c * s**2 + 2 * s**4 * c)


def test_a_residual_block_has_the_published_closed_form() -> None:
    te = 32
    for ci, co in ((16, 16), (16, 24)):
        params = 2 * ci + 9 * ci * co + co + te * 2 * co + 2 * co + 2 * co + 9 * co * co + co
        macs = (9 * ci * co + 9 * co * co) * 4 + te * 2 * co
        if ci != co:
            params, macs = params + ci * co + co, macs + ci * co * 4
        assert time_residual(ci, co, area=4, time_width=te) == Cost(params, macs)
    with_film = time_residual(16, 16, area=4, time_width=te)
    without = time_residual(16, 16, area=4, time_width=te, film=False)
    assert with_film.params - without.params == (te + 1) * 16


def test_a_total_adds_up() -> None:
    assert total([Cost(1, 2), Cost(3, 4)]) == Cost(4, 6)
    assert total([]) == Cost(0, 0)
