"""The noise scale of gradients that are drawn with a known one."""

import pytest
import torch

from finetune_trainer.measuring.noise_scale import MEMORY, NoiseScale, advice

SIZE, SEQUENCES = 400, 8
MOST_STEPS = 400


def followed(
    signal: float, noise: float, *, beta: float = 0.9, max_norm: float | None = None, steps: int = MOST_STEPS
) -> NoiseScale:
    """A NoiseScale that has seen gradients of one direction, `signal` long, with noise of `noise` per sequence, and
    torch's own AdamW whose moment they went into."""
    generator = torch.Generator().manual_seed(3)
    direction = torch.nn.functional.normalize(torch.randn(SIZE, generator=generator), dim=0)
    parameter = torch.nn.Parameter(torch.zeros(SIZE))
    optimizer = torch.optim.AdamW([parameter], betas=(beta, 0.999))
    found = NoiseScale(beta, SEQUENCES)
    for step in range(1, steps + 1):
        spread = noise / (SIZE * SEQUENCES) ** 0.5
        parameter.grad = signal * direction + spread * torch.randn(SIZE, generator=generator)
        norm = float(parameter.grad.norm())
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_([parameter], max_norm)
        optimizer.step()
        found.add(norm, max_norm)
        if step % 10 == 0:
            found.sample(float(optimizer.state[parameter]["exp_avg"].norm()))
    return found


@pytest.mark.parametrize("scale", [0.5, 8.0, 100.0])
@pytest.mark.parametrize("beta", [0.8, 0.9])
def test_it_is_found_whatever_the_moment_remembers(scale: float, beta: float) -> None:
    found = followed(2.0, 2.0 * scale**0.5, beta=beta).scale_sequences
    assert found == pytest.approx(scale, rel=0.15)


def test_clipping_leaves_it_as_it_is() -> None:
    found = followed(2.0, 2.0 * 20**0.5, max_norm=0.5).scale_sequences
    assert found == pytest.approx(20.0, rel=0.15)


def test_a_gradient_without_noise_has_the_scale_0() -> None:
    assert followed(1.0, 0.0).scale_sequences == pytest.approx(0.0, abs=1e-4)


def test_noise_that_hides_the_gradient_has_no_figure() -> None:
    found = followed(0.0, 1.0).scale_sequences
    assert found is None or found > 50 * SEQUENCES


def test_a_moment_without_memory_tells_nothing() -> None:
    assert followed(1.0, 1.0, beta=0.0).scale_sequences is None


def test_nothing_is_said_before_the_moment_has_forgotten_what_was_not_seen() -> None:
    silent = int(MEMORY / (1 - 0.9)) + 40
    assert followed(1.0, 1.0, steps=silent).scale_sequences is None
    assert followed(1.0, 1.0, steps=silent + 10).scale_sequences is not None
    found = followed(1.0, 1.0)
    found.restart()
    assert found.scale_sequences is None


@pytest.mark.parametrize(
    ("scale", "told"), [(64.0, "a larger training.globalBatch"), (2.0, "a smaller"), (8.0, "it suits")]
)
def test_the_advice_compares_it_with_the_batch(scale: float, told: str) -> None:
    assert told in advice(scale, SEQUENCES)
