"""Random weights for tests of numbers."""
import torch


def spread(module: torch.nn.Module, seed: int) -> None:
    """Random weights that let every part show in the result: as built, first masks and logits are all but constant."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                fan_in = parameter[0].numel() if 'embed' not in name and 'token' not in name else 1
                parameter.copy_(0.9 * noise * fan_in**-0.5)
            else:
                parameter.add_(0.3 * noise)
