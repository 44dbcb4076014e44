"""Random weights for tests of numbers."""
import torch


def spread(module: torch.nn.Module, seed: int) -> None:
    """Sets random weights with which every part affects the result; initial masks and logits are nearly constant."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                fan_in = parameter[0].numel() if 'embed' not in name and 'token' not in name else 1
                parameter.copy_(0.9 * noise * fan_in**-0.5)
            else:
                parameter.add_(0.3 * noise)
