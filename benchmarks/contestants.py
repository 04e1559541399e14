"""The same network from four libraries, at two sizes: how it is built, and how it is called with (z, λ, t, y)."""
from functools import cache
import torch, torch._dynamo
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from cfg_edu.adm import adm_lams, adm_time
from cfg_edu.nets import adm64, unet_digits
from cfg_edu.variants import recompute

sizes = dict(adm64=((3,64,64), 1000), digits=((1,8,8), 10))  # shape of an image, classes

class Ours:
    "The network of this package."
    package, options = 'cfg_edu', ('last', 'compile', 'blocks', 'graphs', 'recompute')
    def build(self, size, opts=(), **kwargs):
        net = dict(adm64=adm64, digits=unet_digits)[size](**kwargs)
        if 'recompute' in opts: recompute(net)
        return net
    def call(self, net, z, lam, t, y): return net(z, lam, y)

class Guided:
    "ADM's own code, github.com/openai/guided-diffusion; it computes attention again in the backward pass, always."
    package, options = 'guided-diffusion', ('last', 'fp16', 'recompute')
    def build(self, size, opts=()):
        try: from guided_diffusion import logger, nn as gd, unet
        except ImportError: raise ImportError("not importable, skipped") from None
        if size != 'adm64': raise ValueError("its GroupNorm needs multiples of 32 channels, skipped")
        logger.Logger.CURRENT = logger.Logger(None, [])     # its default one makes a folder
        again = lambda f, inputs, params, flag: checkpoint(f, *inputs, use_reentrant=False, preserve_rng_state=False) if flag else f(*inputs)
        unet.checkpoint = gd.checkpoint if 'fp16' in opts else again    # its own forgets autocast in the backward pass
        return unet.UNetModel(64, 3, 192, 3, 3, (2,4,8), .1, (1,2,3,4), num_classes=1000, num_head_channels=64, use_checkpoint='recompute' in opts,
                              use_fp16='fp16' in opts, use_scale_shift_norm=True, resblock_updown=True, use_new_attention_order=True)
    def call(self, net, z, lam, t, y): return net(z, t, y)

class Diffusers:
    "diffusers' `UNet2DModel`, its blocks as near to ADM's as its options allow."
    package, options = 'diffusers', ('last', 'compile', 'blocks', 'graphs', 'recompute')
    def build(self, size, opts=()):
        from diffusers import UNet2DModel
        blocks = lambda way: [f'{way}Block2D'] + [f'Attn{way}Block2D']*3
        adm = dict(block_out_channels=(192,384,576,768), down_block_types=blocks('Down'), up_block_types=blocks('Up')[::-1], layers_per_block=3, dropout=.1, norm_num_groups=32, attention_head_dim=64)
        digits = dict(block_out_channels=(16,32), down_block_types=['DownBlock2D']*2, up_block_types=['UpBlock2D']*2, layers_per_block=1, norm_num_groups=4, attention_head_dim=32)
        ((c, n, _), classes), kw = sizes[size], dict(adm64=adm, digits=digits)[size]
        net = UNet2DModel(n, c, c, downsample_type='resnet', upsample_type='resnet', resnet_time_scale_shift='scale_shift', attn_norm_num_groups=kw['norm_num_groups'], num_class_embeds=classes, **kw)
        if 'recompute' in opts: net.enable_gradient_checkpointing()
        return net
    def call(self, net, z, lam, t, y): return net(z, t, y, return_dict=False)[0]

class DDPM:
    "denoising_diffusion_pytorch's `Unet` for classifier-free guidance: another network, made as large as ours; attention is linear but for the bottom."
    package, options = 'denoising-diffusion-pytorch', ('last', 'compile', 'graphs')
    def build(self, size, opts=()):
        from denoising_diffusion_pytorch.classifier_free_guidance import Unet
        kw = dict(adm64=dict(dim=272, dim_mults=(1,2,3,4), attn_dim_head=64, attn_heads=17), digits=dict(dim=14, dim_mults=(1,2), attn_heads=1))[size]
        (c, _, _), classes = sizes[size]
        return Unet(num_classes=classes, channels=c, **kw)
    def call(self, net, z, lam, t, y): return net(z, t, y, cond_drop_prob=0.)   # labels are hidden before the network, if at all

libraries = dict(ours=Ours(), guided=Guided(), diffusers=Diffusers(), ddpm=DDPM())

def parse(
    variant:str,  # library, then options, joined by +: 'ours+last+compile'
)->tuple:         # the library, and its options as a tuple
    "What a variant's name says. Raises ValueError for a library or an option that does not exist."
    name, *opts = variant.split('+')
    if name not in libraries: raise ValueError(f"there is {', '.join(libraries)}, not {name!r}")
    if bad := set(opts) - set(libraries[name].options): raise ValueError(f"{name} has the options {', '.join(libraries[name].options)}, not {', '.join(sorted(bad))}")
    return libraries[name], tuple(opts)

def compile_blocks(
    net:nn.Module,  # ours or diffusers'
):
    "Compiles each residual block and each attention by itself, where `compile` takes the network as a whole."
    torch._dynamo.config.recompile_limit = 64               # their sizes differ
    for m in net.modules():
        if type(m).__name__ in ('ResBlock', 'AttentionBlock', 'ResnetBlock2D', 'Attention'): m.compile()

def inputs(
    size:str,    # 'adm64' or 'digits'
    batch:int,   # images
    device,      # where they shall be
    seed:int=0,  # of the random numbers
)->list:         # z (b, c, n, n), λ (b,), ADM's time t (b,), y (b,) and a target of the shape of z
    "A random batch, the same on every device."
    (shape, classes), g = sizes[size], torch.Generator().manual_seed(seed)
    z, target = torch.randn(2, batch, *shape, generator=g)
    lam, y = adm_lams()[torch.randint(1000, (batch,), generator=g)].float(), torch.randint(classes, (batch,), generator=g)
    return [o.to(device) for o in (z, lam, adm_time(lam), y, target)]

@torch.no_grad()
def stir(
    net:nn.Module,  # changed in place
    seed:int=0,     # of the random numbers
)->nn.Module:       # `net`
    "Small random numbers where a network starts with zeros: otherwise most gradients were zero."
    torch.manual_seed(seed)
    for p in net.parameters():
        if not p.any(): p.normal_(std=.02)
    return net

@cache
def count(
    variant:str,  # see `parse`
    size:str,     # 'adm64' or 'digits'
)->tuple:         # parameters, and floating-point operations (twice the multiplications) of a forward pass for one image
    "The size of a network, without its memory."
    lib, _ = parse(variant)
    *args, _ = inputs(size, 1, 'meta')
    with torch.device('meta'), torch.no_grad(), FlopCounterMode(display=False) as flops:
        net = lib.build(size)
        lib.call(net, *args)
    return sum(p.numel() for p in net.parameters()), flops.get_total_flops()

@torch.no_grad()
def difference(
    device='cpu',  # where both run, in float32
)->float:          # largest difference of the outputs, as a part of the largest output
    "How far the output of guided-diffusion's network is from ours when it has our weights."
    with torch.device(device): mine, theirs = stir(adm64(clock='adm')).eval(), libraries['guided'].build('adm64').eval()
    theirs.load_state_dict(mine.state_dict())
    z, lam, t, y, _ = inputs('adm64', 2, device)
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    a, b = mine(z, lam, y), theirs(z, t, y)
    torch.backends.cudnn.allow_tf32 = tf32
    return ((a-b).abs().max()/a.abs().max()).item()
