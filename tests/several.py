"A training that any number of processes share: `torchrun --nproc_per_node K -- several.py FOLDER`; `runs()` is the same in one."
import sys, torch
from functools import partial
from pathlib import Path
from accelerate import Accelerator
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.torch_core import rank_distrib
from cfg_edu.data import data_dls, toy_dls
from cfg_edu.nets import MLP
from cfg_edu.onepass import ClassesAndW, TellW
from cfg_edu.training import diffusion_learner
from cfg_edu.processes import Deal, HalfPrecision

class Seen(Callback):
    "What this process has seen in training: z, λ and labels, losses, masks of dropout, and whether gradients travelled"
    order = Deal.order+.5
    def before_fit(self): self.inputs, self.masks, self.curve, self.syncs = ([], [], []), [], [], []
    def before_batch(self):
        if self.training:
            for kept, t in zip(self.inputs, self.xb): kept.append(t.clone())
    def after_batch(self):
        if not self.training: return
        self.curve.append(self.learn.to_detach(self.loss))
        self.syncs.append(getattr(self.model, 'require_backward_grad_sync', True))
        net = getattr(self.model, 'module', self.model).net
        if hasattr(net, 'mask'): self.masks.append(net.mask)

class Forgetful(MLP):
    "With dropout, and a memory of it"
    def forward(self, z, lam, y=None):
        keep = nn.functional.dropout(torch.ones(16), .5, self.training)
        if self.training: self.mask = keep
        return super().forward(z, lam, y)*(.5+keep.mean()/2)

class Flat(nn.Module):
    "An MLP for pictures of eight pixels in a row and eight in a column"
    def __init__(self):
        super().__init__()
        self.net = MLP(3, dim=64, width=16, depth=1)
        self.label_emb, self.null = self.net.label_emb, 3
    def forward(self, z, lam, y=None): return self.net(z.flatten(1), lam, y).reshape(z.shape)

class PullThePlug(Callback):
    "In the middle of the second epoch"
    def after_batch(self):
        if self.training and self.epoch == 1 and self.iter == 3: raise KeyboardInterrupt

class Poison(Callback):
    "Nan in the share of the last process"
    order = Deal.order+.5
    def before_batch(self):
        if self.training and self.train_iter == 3 and rank_distrib(): self.learn.yb = (self.yb[0]*float('nan'),)

def learner(net=MLP, bs=48, cbs=(), **kwargs):
    torch.manual_seed(1 + 10*rank_distrib())             # each process begins with other weights and another state
    dls = toy_dls('moons', bs=bs, n=480, device='cpu')
    dls.valid.n = 43                                     # no two or three processes divide it
    return diffusion_learner(dls, net(2, width=16, depth=1), decay=.9, cbs=[Deal(), GradientClip(.5), Seen(), *cbs], **kwargs)

def run(learn, epochs=2, cbs=()):
    with learn.no_bar(), learn.no_logging(), learn.distrib_ctx():
        learn.fit_one_cycle(epochs, cbs=cbs)
        s, values = learn.seen, [list(r[:2]) for r in learn.recorder.values]
        seen = dict(zip(('z', 'lam', 'y'), s.inputs), masks=s.masks, curve=torch.stack(s.curve), syncs=s.syncs)
        again = learn.validate()[0]
    flat = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (learn.model, learn.ema.avg)]
    return seen | dict(weights=flat, losses=torch.tensor(values), n=learn.ema.n, again=again, names=list(learn.model.state_dict()))

def pictures():
    "Mirrored ones, in three classes, without a network for pictures"
    learn = learner()
    g = torch.Generator().manual_seed(0)
    learn.dls = data_dls(torch.rand(120, 1, 8, 8, generator=g), torch.arange(120)%3, range(3), 48, 24, flip=True, device='cpu')
    torch.manual_seed(1 + 10*rank_distrib())
    return diffusion_learner(learn.dls, Flat(), decay=.9, cbs=[Deal(), Seen()])

def stopped():
    "A learner that is stopped, and goes on itself"
    learn = learner(bs=24, cbs=[acc := GradientAccumulation(48)])
    with learn.no_bar(), learn.no_logging(), learn.distrib_ctx():
        try: learn.fit(2, cbs=PullThePlug())
        except KeyboardInterrupt: learn.fit(2)
    return [learn.ema.n, acc.n_acc, learn.dls.train.bs, len(learn.dls.train)]

def refused(learn, **kwargs):
    try: run(learn, **kwargs)
    except (ValueError, FloatingPointError) as e: return str(e)

def runs():
    return dict(plain=run(learner()), parts=run(learner(bs=24, cbs=[GradientAccumulation(48)])), pictures=run(pictures()),
                told=run(learner(partial(MLP, cond=ClassesAndW), cbs=[TellW()])),
                half=run(learner(cbs=[HalfPrecision('fp16', init_scale=2.**30)])), forgetful=run(learner(Forgetful), 1), stopped=stopped())

if __name__ == '__main__':
    Accelerator()
    torch.set_num_threads(1)
    res = runs() | dict(refused=[refused(learner(bs=49)), refused(learner(), cbs=Poison())])
    torch.save(res, Path(sys.argv[1])/f'{rank_distrib()}.pt')
