"""Other libraries' samplers, driven by a model of this package: each is called as `f(model, shape, y, calls, seed, clip)` and returns samples."""
import inspect
from functools import partial
from importlib.util import find_spec
import torch
from cfg_edu.schedule import amps

class Clipped:
    "ε of `model` whose x̂ lies in `clip`, for samplers that do not clip by themselves; counts its calls."
    def __init__(self, model, clip): self.model, self.clip, self.calls = model, clip, 0
    def __call__(self, z, lam, y):  # lam: a float
        self.calls += 1
        lam = torch.tensor(float(lam), dtype=torch.float32, device=z.device)
        eps = self.model(z, lam.expand(len(z)), y)
        if self.clip is None: return eps
        alpha, sigma = amps(lam, z.ndim)
        return (z - alpha*((z - sigma*eps)/alpha).clamp(*self.clip))/sigma

def installed(
    all, # by names that begin with that of a library
):       # those whose library is there
    "Leaves out, and names, what is not installed."
    libs = {name: name.split(',')[0].split()[0] for name in all}
    off = sorted({lib for lib in libs.values() if not find_spec(lib.replace('-', '_'))})
    if off: print(f"not installed, left out: {', '.join(off)}", flush=True)
    return {name: o for name, o in all.items() if libs[name] not in off}

def _start(shape, seed, device): return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)

@torch.no_grad()
def diffusers(name, model, shape, y, calls, seed=0, clip=None, device='cpu', **kwargs):
    "A scheduler of diffusers; λ is what it has at each step, −2 log σ or log ᾱ/(1−ᾱ)"
    import diffusers as lib
    cls, options = getattr(lib, name), {}
    if 'clip_sample' in inspect.signature(cls).parameters: options['clip_sample'] = False       # `Clipped` does it for all
    s, f = cls(**options, **kwargs), Clipped(model, clip)
    s.set_timesteps((calls+1)//2 if name.startswith('Heun') else calls)                         # Heun calls twice in each step but the last
    z, g = _start(shape, seed, device)*s.init_noise_sigma, torch.Generator().manual_seed(seed+1)
    takes = inspect.signature(s.step).parameters
    for i, t in enumerate(s.timesteps):
        if hasattr(s, 'sigmas'): lam = -2*s.sigmas[i].double().log()
        else: lam = s.alphas_cumprod[t].double().logit()
        eps = f(s.scale_model_input(z, t), lam, y)
        z = s.step(eps, t, z, **({'generator': g} if 'generator' in takes else {})).prev_sample
    return z, f.calls

@torch.no_grad()
def k(name, grid, model, shape, y, calls, seed=0, clip=None, lo=.05, hi=20., device='cpu', tree=False):
    "A sampler of k-diffusion: x = z/α and σ there are z/α and e^(−λ/2) here; `tree`: its Brownian tree, not plain noise"
    from k_diffusion import sampling as lib
    f = Clipped(model, clip)
    def denoise(x, sigma):
        lam = -2*sigma[0].double().log()
        alpha, s = amps(lam, x.ndim)
        return x - sigma[0]*f(x*alpha.to(x.dtype), lam, y)
    n = calls//2 if name == 'heun' else calls                                                   # its last step, to σ = 0, calls once
    sigmas = dict(karras=lib.get_sigmas_karras, exponential=lib.get_sigmas_exponential)[grid](n + (name == 'heun'), lo, hi).to(device)
    how = getattr(lib, f'sample_{name}')
    g = torch.Generator().manual_seed(seed+1)
    noise = {} if tree or 'noise_sampler' not in inspect.signature(how).parameters else dict(noise_sampler=lambda *_: torch.randn(shape, generator=g).to(device))
    return how(denoise, _start(shape, seed, device)*sigmas[0], sigmas, disable=True, **noise), f.calls

@torch.no_grad()
def small(gam, mu, schedule, model, shape, y, calls, seed=0, clip=None, device='cpu'):
    "A sampler of smalldiffusion"
    import smalldiffusion as lib
    from accelerate import Accelerator
    f = Clipped(model, clip)
    class Net(torch.nn.Module, lib.ModelMixin):
        input_dims = shape[1:]
        def forward(self, x, sigma, cond=None):
            lam = -2*sigma.double().log()
            return f(x*amps(lam, x.ndim)[0].to(x.dtype), lam, cond)
    torch.manual_seed(seed+1)
    sigmas = getattr(lib, schedule)(1000).sample_sigmas(calls)
    *_, x = lib.samples(Net(), sigmas, gam, mu, xt=_start(shape, seed, device)*sigmas[0], cond=y, accelerator=Accelerator(cpu=device == 'cpu'))
    return x, f.calls

@torch.no_grad()
def ddpm(eta, model, shape, y, calls, seed=0, clip=None, device='cpu'):
    "The sampler of denoising_diffusion_pytorch's classifier-free guidance, on its 1000 steps of the cosine schedule"
    from denoising_diffusion_pytorch import classifier_free_guidance as lib
    f = Clipped(model, clip)
    class Net(torch.nn.Module):
        channels = out_dim = shape[1]
        random_or_learned_sinusoidal_cond = False
        def forward_with_cond_scale(self, x, t, classes, **_):
            eps = f(x, self.lams[t[0]], classes)
            return eps, eps
    net, lib.tqdm = Net(), lambda o, **_: o
    d = lib.GaussianDiffusion(net, image_size=shape[-1], sampling_timesteps=calls, ddim_sampling_eta=eta).to(device)
    net.lams = d.alphas_cumprod.double().logit()
    torch.manual_seed(seed)
    return d.ddim_sample(y, shape, clip_denoised=clip is not None)*2 - 1, f.calls

linear, cosine = dict(), dict(beta_schedule='squaredcos_cap_v2')
ode = {
    'diffusers DDIM': partial(diffusers, 'DDIMScheduler'),
    'diffusers DDIM, trailing': partial(diffusers, 'DDIMScheduler', timestep_spacing='trailing'),
    'diffusers DDIM, cosine': partial(diffusers, 'DDIMScheduler', timestep_spacing='trailing', **cosine),
    'diffusers Heun, Karras': partial(diffusers, 'HeunDiscreteScheduler', use_karras_sigmas=True),
    'diffusers DPM++ 2M': partial(diffusers, 'DPMSolverMultistepScheduler'),
    'diffusers DPM++ 2M, Karras': partial(diffusers, 'DPMSolverMultistepScheduler', use_karras_sigmas=True),
    'diffusers DPM++ 2M, λ': partial(diffusers, 'DPMSolverMultistepScheduler', use_lu_lambdas=True),
    'diffusers DPM++ 3M, λ': partial(diffusers, 'DPMSolverMultistepScheduler', use_lu_lambdas=True, solver_order=3),
    'diffusers UniPC': partial(diffusers, 'UniPCMultistepScheduler'),
    'diffusers UniPC, Karras': partial(diffusers, 'UniPCMultistepScheduler', use_karras_sigmas=True),
    'k-diffusion Heun, Karras': partial(k, 'heun', 'karras'),
    'k-diffusion DPM++ 2M, Karras': partial(k, 'dpmpp_2m', 'karras'),
    'k-diffusion DPM++ 2M, λ': partial(k, 'dpmpp_2m', 'exponential'),
    'smalldiffusion, accelerated': partial(small, 2., 0., 'ScheduleLogLinear'),
    'smalldiffusion DDIM': partial(small, 1., 0., 'ScheduleDDPM'),
}
sde = {
    'diffusers DDPM': partial(diffusers, 'DDPMScheduler'),
    'diffusers DDPM, trailing': partial(diffusers, 'DDPMScheduler', timestep_spacing='trailing'),
    'diffusers DPM++ 2M SDE': partial(diffusers, 'DPMSolverMultistepScheduler', algorithm_type='sde-dpmsolver++'),
    'diffusers DPM++ 2M SDE, Karras': partial(diffusers, 'DPMSolverMultistepScheduler', algorithm_type='sde-dpmsolver++', use_karras_sigmas=True),
    'diffusers DPM++ 2M SDE, λ': partial(diffusers, 'DPMSolverMultistepScheduler', algorithm_type='sde-dpmsolver++', use_lu_lambdas=True),
    'k-diffusion Euler ancestral, Karras': partial(k, 'euler_ancestral', 'karras'),
    'k-diffusion DPM++ 2M SDE, Karras': partial(k, 'dpmpp_2m_sde', 'karras'),
    'k-diffusion DPM++ 2M SDE, λ': partial(k, 'dpmpp_2m_sde', 'exponential'),
    'k-diffusion DPM++ 3M SDE, λ': partial(k, 'dpmpp_3m_sde', 'exponential'),
    'smalldiffusion DDPM': partial(small, 1., .5, 'ScheduleDDPM'),
    'denoising-diffusion-pytorch': partial(ddpm, 1.),
}
