"A U-Net as small as can be, and weights that are not zero any more."
import torch

small = dict(image_size=8, in_channels=1, model_channels=16, n_classes=3, attn_sizes=(4,), head_channels=16)


@torch.no_grad()
def shake(net, std=.1):
    "`net` with noise on all parameters, in evaluation mode"
    g = torch.Generator().manual_seed(0)
    for p in net.parameters(): p += std*torch.randn(p.shape, generator=g)
    return net.eval()
