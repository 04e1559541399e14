"fastai's own tools beside ours: files, interrupted work, every public method and callback, and loaders that are not ours."
import contextlib, io, math, pickle, re, sys, warnings
from functools import partial
import numpy as np, pytest, torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from fastai.callback.core import Callback, CancelEpochException, CancelFitException, FetchPredsCallback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.hook import ActivationStats, HookCallback
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import CSVLogger, ShowGraphCallback
from fastai.callback.schedule import LRFinder, ParamScheduler, SchedCos
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback, TerminateOnNaNCallback, TrackerCallback
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.data import CollectDataCallback
from fastai.callback.preds import MCDropoutCallback
from fastai.callback.rnn import ModelResetter, RNNCallback, RNNRegularizer
from fastai.callback.training import BnFreeze, GradientAccumulation, GradientClip, ShortEpochCallback
from fastai.learner import CastToTensor, Learner, SkipToEpoch, load_learner
from fastai.metrics import mae, mse, rmse
from fastai.optimizer import Adam, OptimWrapper, ranger
from fastai.data.core import DataLoaders
from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, ImageDataLoaders, MultiCategoryBlock, Normalize, PILImageBW, RegressionBlock, Resize, get_image_files, parent_label
from cfg_edu.classifier import classifier_learner
from cfg_edu.conditions import Vector
from cfg_edu.data import data_dls
from cfg_edu.guidance import CFG
from cfg_edu.nets import MLP, UNet
from cfg_edu.sampling import sample
from cfg_edu.training import Monitor, SampleGrid, diffusion_learner

def images(n=96, c=1, size=4):
    g = torch.Generator().manual_seed(0)
    return torch.rand(n, c, size, size, generator=g)*2 - 1, torch.arange(n)%2
def dls(): return data_dls(*images(), ['a', 'b'], 16, 32, device=torch.device('cpu'))
def net(n=2, c=1, size=4, **kwargs): return UNet(size, c, 8, n_classes=n, channel_mult=(1,), head_channels=8, **kwargs)
def fresh(tmp_path, seed=1, **kwargs):
    torch.manual_seed(seed)
    return diffusion_learner(dls(), net(), **dict(dict(path=tmp_path, decay=.9), **kwargs))
@contextlib.contextmanager
def quiet(learn):
    with learn.no_bar(), learn.no_logging(), contextlib.redirect_stdout(io.StringIO()): yield learn
def fit(learn, n=1, **kwargs):
    with quiet(learn): learn.fit(n, **kwargs)
    return learn
def flat(*models): return torch.cat([p.detach().flatten() for m in models for p in m.parameters()])

class Look(Callback):
    "What the network gets"
    order = 9.5
    def before_fit(self): self.seen = []
    def before_batch(self): self.seen.append((*self.xb, *self.yb))

# --- the average goes wherever the weights go ---------------------------------------------------------------------------------------------------------

class Both(Callback):
    "Weights and average after every epoch; the later epochs go wrong"
    order = 61.5                                            # after `SaveModelCallback`
    def before_fit(self): self.seen = []
    def before_epoch(self): self.opt.set_hyper('lr', 4e-3 if self.epoch < 3 else .5)
    def after_epoch(self): self.seen.append((flat(self.model), flat(self.learn.ema.avg), self.learn.ema.n))

@pytest.mark.parametrize('with_opt', [False, True])
def test_the_best_epoch_is_put_back_whole(tmp_path, with_opt):
    learn = fit(fresh(tmp_path), 5, cbs=[SaveModelCallback(fname='best', with_opt=with_opt), both := Both()])
    losses = [v[1] for v in learn.recorder.values]
    best = losses.index(min(losses))
    weights, average, n = both.seen[best]
    assert best < 4 and torch.equal(flat(learn.model), weights) and torch.equal(flat(learn.ema.avg), average) and learn.ema.n == n
    with quiet(learn): assert learn.validate()[0] == pytest.approx(min(losses), rel=1e-5)
    again = fresh(tmp_path, seed=2)
    again.load('best', with_opt=with_opt)                   # a new session
    assert torch.equal(flat(again.model), weights) and torch.equal(flat(again.ema.avg), average) and again.ema.n == n
    assert sample(CFG(again.ema.avg, 1.), (2, 1, 4, 4), 1, n_steps=2).isfinite().all()
    for o in (learn, again): torch.manual_seed(5); o.dls.train.rng.seed(0); fit(o, reset_opt=True)
    assert torch.equal(flat(learn.model, learn.ema.avg), flat(again.model, again.ema.avg))   # and goes on the same way

def test_the_optimiser_goes_on(tmp_path):
    learn = fit(fresh(tmp_path), 2)
    learn.save('all')
    again = fresh(tmp_path, seed=2).load('all')
    for o in (learn, again): torch.manual_seed(5); o.dls.train.rng.seed(0); fit(o)
    assert torch.equal(flat(learn.model, learn.ema.avg), flat(again.model, again.ema.avg))

def test_a_file_of_plain_fastai(tmp_path):
    learn = fit(fresh(tmp_path))
    Learner.save(learn, 'plain')
    again = fit(fresh(tmp_path, seed=2), 2)                 # with an average of its own, which is gone
    with pytest.warns(UserWarning, match='the file has no average of the weights'): again.load('plain')
    assert torch.equal(flat(again.model), flat(learn.model)) and torch.equal(flat(again.ema.avg), flat(learn.model)) and again.ema.n == 0
    fit(again)
    assert again.ema.n == 4

def test_an_untrained_one(tmp_path):
    learn = fresh(tmp_path)
    learn.save('new')
    with warnings.catch_warnings():
        warnings.filterwarnings('error', category=UserWarning)
        again = fresh(tmp_path, seed=2).load('new', with_opt=False)
    assert torch.equal(flat(again.ema.avg), flat(learn.model)) and again.ema.n == 0

def test_weights_from_elsewhere_begin_a_new_average(tmp_path):
    learn, other = fresh(tmp_path), fit(fresh(tmp_path, seed=2))
    with quiet(learn): learn.validate()
    learn.model.load_state_dict(other.model.state_dict())
    with quiet(learn): learn.validate()
    assert torch.equal(flat(learn.ema.avg), flat(other.model))

def test_files_are_whole_and_only_data(tmp_path):
    learn = fit(fresh(tmp_path))
    file = learn.save('x')
    before = file.read_bytes()
    assert torch.load(file, weights_only=True).keys() == {'model', 'opt'}
    learn.opt.opt.state['x'] = lambda: 0                    # cannot be pickled
    with pytest.raises((AttributeError, pickle.PicklingError)): learn.save('x')
    assert file.read_bytes() == before and len([*file.parent.iterdir()]) == 1

def test_other_names_are_refused(tmp_path):
    fresh(tmp_path).save('x')
    other = diffusion_learner(dls(), UNet(4, 1, 16, n_classes=2, channel_mult=(1,), head_channels=8), path=tmp_path)
    with pytest.raises(RuntimeError, match='size mismatch'): other.load('x')

@pytest.mark.parametrize('trained', [True, False])
def test_export(tmp_path, trained):
    learn = fresh(tmp_path)
    if trained: fit(learn)
    loaders, opt = learn.dls, learn.opt
    learn.export('l.pkl')
    assert learn.dls is loaders and learn.opt is opt
    assert (tmp_path/'l.pkl').stat().st_size < 400_000 and len(learn.first_y.untyped_storage()) == 8*10   # nor all labels
    with pytest.warns(UserWarning, match='insecure'): again = load_learner(tmp_path/'l.pkl')
    assert torch.equal(flat(again.model), flat(learn.model)) and again.dls.vocab == ['a', 'b']
    if trained: assert torch.equal(flat(again.ema.avg), flat(learn.ema.avg)) and again.ema.n == learn.ema.n
    fit(learn)                                              # and training goes on

def test_an_export_that_fails_changes_nothing(tmp_path):
    learn = fit(fresh(tmp_path))
    loaders, opt = learn.dls, learn.opt
    with pytest.raises((RuntimeError, OSError)): learn.export('no/such/folder.pkl')
    assert learn.dls is loaders and learn.opt is opt
    fit(learn)

# --- any exit -----------------------------------------------------------------------------------------------------------------------------------------

class Stop(Callback):
    "In the middle of validation"
    def __init__(self, error, at): self.error, self.at = error, at
    def _now(self, where):
        if not self.training and where == self.at: raise self.error('stop')
    def before_batch(self): self._now('before_batch')
    def after_pred(self): self._now('after_pred')
    def after_validate(self): self._now('after_validate')

@pytest.mark.parametrize('how', ['fit', 'validate', 'get_preds', 'summary'])
@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError, CancelFitException, CancelEpochException])
@pytest.mark.parametrize('at', ['before_batch', 'after_pred', 'after_validate'])
def test_any_exit_puts_the_weights_back(tmp_path, how, error, at):
    learn = fit(fresh(tmp_path))
    average = flat(learn.ema.avg)
    learn.add_cb(stop := Stop(error, at))
    stops = pytest.raises(error) if how != 'fit' or issubclass(error, (KeyboardInterrupt, RuntimeError)) else contextlib.nullcontext()
    with quiet(learn), stops: getattr(learn, how)(*[1][:how == 'fit'])
    assert not learn.ema.swapped and learn.diffuse.gen is None
    if how != 'fit': assert torch.equal(flat(learn.ema.avg), average)
    weights, average = flat(learn.model), flat(learn.ema.avg)
    learn.remove_cb(stop)
    class First(Callback):
        def before_batch(self):
            if self.training and self.train_iter == 0: self.weights = flat(self.model)
    fit(learn, cbs=(first := First()))
    assert torch.equal(first.weights, weights) and not torch.equal(weights, average)

def test_in_a_plain_learner_the_next_training_puts_them_back():
    torch.manual_seed(0)
    ours = fresh(None)
    cbs = [cb for cb in ours.cbs if type(cb).__name__ in ('DropLabel', 'Diffuse', 'EMA')]
    learn = fit(Learner(ours.dls, ours.model, F.mse_loss, cbs=cbs))
    weights, average = flat(learn.model), flat(learn.ema.avg)
    learn.add_cb(stop := Stop(KeyboardInterrupt, 'after_pred'))
    with quiet(learn), pytest.raises(KeyboardInterrupt): learn.validate()
    learn.remove_cb(stop)
    fit(learn, lr=1e-30)
    assert torch.equal(flat(learn.model), weights) and learn.diffuse.gen is None
    assert not torch.equal(weights, average) and not learn.ema.swapped

# --- every public method ------------------------------------------------------------------------------------------------------------------------------

own = lambda m: [[*m.net.label_emb.parameters()], [p for k, p in m.named_parameters() if 'label_emb' not in k]]
methods = dict(
    fit=(2,), fit_one_cycle=(1,), fit_flat_cos=(1,), fit_sgdr=(1, 1), fine_tune=(1,), validate=(), get_preds=(), lr_find=(), summary=(), show_training_loop=(), freeze=(), unfreeze=(), freeze_to=(0,),
    to_fp16=(), to_bf16=(), to_fp32=(), to_channelslast=(), to_contiguous=(), no_bar=(), no_mbar=(), no_logging=(), loss_not_reduced=(), create_opt=(), ordered_cbs=('before_fit',), save=('x',), export=())
meaningless = dict(predict=(torch.zeros(1, 4, 4),), tta=(), show_results=())
inner = {'add_cb', 'add_cbs', 'added_cbs', 'remove_cb', 'remove_cbs', 'removed_cbs', 'all_batches', 'one_batch', 'load', 'to_detach', 'validation_context', 'metrics', 'x', 'y'}   # of the loop itself, or tried elsewhere
tried_on_other_pages = {'distrib_ctx', 'fit_resumable', 'to_parallel', 'detach_parallel', 'parallel_ctx', 'to_distributed', 'detach_distributed', 'to_non_native_fp16', 'to_non_native_fp32', 'gather_args'}

def test_the_list_is_complete():
    public = {k for k in vars(Learner) if k[0] != '_'}
    assert public - {*methods, *meaningless} <= inner | tried_on_other_pages, public - {*methods, *meaningless} - inner - tried_on_other_pages

@pytest.mark.parametrize('name', methods)
def test_methods_that_work(tmp_path, name):
    learn = fresh(tmp_path)
    with quiet(learn): getattr(learn, name)(*methods[name])
    fit(learn)                                              # and training goes on
    assert flat(learn.model, learn.ema.avg).isfinite().all() and not learn.ema.swapped

@pytest.mark.parametrize('name', meaningless)
def test_methods_that_say_one_sentence(tmp_path, name):
    with pytest.raises(NotImplementedError, match='predict, tta and show_results know no noise level: call `learn.ema.avg` with one'): getattr(fresh(tmp_path), name)(*meaningless[name])

def test_predictions_are_the_noise(tmp_path):
    learn = fit(fresh(tmp_path))
    with quiet(learn):
        loss = learn.validate()[0]
        eps_hat, eps = learn.get_preds()
        x, a, b, c, losses = learn.get_preds(with_input=True, with_decoded=True, with_loss=True, cbs=(look := Look()))
        assert len(learn.get_preds(ds_idx=0)[0]) == 64 and len(learn.get_preds(dl=learn.dls.train)[0]) == 64
    assert F.mse_loss(eps_hat, eps).item() == pytest.approx(loss, rel=1e-4) and losses.mean().item() == pytest.approx(loss, rel=1e-4)
    assert torch.equal(a, eps_hat) and torch.equal(b, eps) and torch.equal(x, learn.dls.valid_ds.tensors[0])
    z, lam, y, _ = map(torch.cat, zip(*look.seen))
    with torch.no_grad(): torch.testing.assert_close(learn.ema.avg(z, lam, y), a)            # of the average

def test_the_summary_has_every_layer(tmp_path):
    said = str(fresh(tmp_path).summary())
    assert 'Total params' in said and 'Denoiser' in said and 'Diffuse' in said and 'Conv2d' in said

def test_the_rate_finder(tmp_path):
    learn = fit(fresh(tmp_path))
    before = flat(learn.model, learn.ema.avg)
    with quiet(learn), warnings.catch_warnings():
        warnings.filterwarnings('error', message='the (file|loss)')
        assert 0 < learn.lr_find(show_plot=False).valley < 10
    assert torch.equal(flat(learn.model, learn.ema.avg), before) and learn.ema.n == 4

@pytest.mark.parametrize('kw', [
    dict(opt_func=Adam), dict(opt_func=ranger), dict(opt_func=partial(OptimWrapper, opt=torch.optim.SGD)), dict(loss_func=F.l1_loss), dict(loss_func=nn.HuberLoss()), dict(wd=.1), dict(moms=(.9, .8, .9)), dict(metrics=mse),
    dict(metrics=[rmse, mae]), dict(splitter=own), dict(train_bn=False), dict(wd_bn_bias=True), dict(model_dir='m'), dict(default_cbs=True)], ids=lambda kw: next(iter(kw)))
def test_arguments_of_the_learner(tmp_path, kw):
    learn = fresh(tmp_path, **kw)
    with quiet(learn): learn.freeze(), learn.fit_one_cycle(1), learn.unfreeze(), learn.fit(1)
    assert flat(learn.model, learn.ema.avg).isfinite().all() and learn.ema.n == 8
    if 'wd' in kw: assert {p['weight_decay'] for p in learn.opt.opt.param_groups} == {.1}
    if 'splitter' in kw: assert len(learn.opt.param_lists) == 2
    if 'loss_func' in kw: assert learn.loss_func is kw['loss_func']
    learn.load(learn.save('x').stem)                        # another optimiser's state too

# --- every callback -----------------------------------------------------------------------------------------------------------------------------------

works = dict(
    AddedCallback=lambda: Callback(), ShortEpochCallback=lambda: ShortEpochCallback(.5), GradientAccumulation=lambda: GradientAccumulation(32), GradientClip=GradientClip, BnFreeze=BnFreeze, MCDropoutCallback=MCDropoutCallback,
    CollectDataCallback=CollectDataCallback, ChannelsLast=ChannelsLast, MixedPrecision=MixedPrecision, TerminateOnNaNCallback=TerminateOnNaNCallback, TrackerCallback=TrackerCallback, EarlyStoppingCallback=EarlyStoppingCallback,
    SaveModelCallback=lambda: SaveModelCallback(every_epoch=True), ReduceLROnPlateau=ReduceLROnPlateau, HookCallback=lambda: HookCallback(hook=lambda m, i, o: None), ActivationStats=lambda: ActivationStats(with_hist=True),
    FetchPredsCallback=FetchPredsCallback, CSVLogger=CSVLogger, RNNRegularizer=RNNRegularizer, ParamScheduler=lambda: ParamScheduler({'lr': SchedCos(1e-3, 1e-4)}), LRFinder=lambda: LRFinder(num_it=8),
    SkipToEpoch=lambda: SkipToEpoch(1), CastToTensor=CastToTensor)
mixed, recurrent = 'mixes images, and mixtures would then be learned', 'is for recurrent networks'
refused = dict(MixUp=(MixUp, mixed), CutMix=(CutMix, mixed), ModelResetter=(ModelResetter, recurrent), RNNCallback=(RNNCallback, recurrent))
defaults_of_a_learner = {'TrainEvalCallback', 'Recorder', 'ProgressCallback'}
elsewhere = {'MixHandler', 'ShowGraphCallback', 'TensorBoardBaseCallback', 'TensorBoardCallback', 'TensorBoardProjectorCallback', 'DistributedTrainer', 'ParallelTrainer',
             'GatherPredsCallback', 'ModelToHalf', 'NonNativeMixedPrecision',                          # a tool of `get_preds`, and of old GPUs
             'GANTrainer', 'FixedGANSwitcher', 'AdaptiveGANSwitcher', 'GANDiscriminativeLR',   # of a `GANLearner`
             'WandbCallback', 'CometCallback', 'AzureMLCallback', 'NeptuneCallback', 'CaptumInterpretation'}   # need an account

def test_the_list_of_callbacks_is_complete():
    def below(c): return {c, *(d for s in c.__subclasses__() for d in below(s))}
    known = {*works, *refused, *defaults_of_a_learner, *elsewhere, 'Callback'}
    found = {c.__name__ for c in below(Callback) if c.__module__.startswith('fastai.')}
    assert found <= known, found - known

# before Python 3.11 the hooks that it puts on a network cannot be copied, and so no average be made
copied = [k for k in works if k != 'ActivationStats' or sys.version_info >= (3, 11)]

@pytest.mark.parametrize('name', copied)
def test_callbacks_that_work(tmp_path, name):
    learn = fit(fresh(tmp_path), 2, cbs=works[name]())
    assert flat(learn.model).isfinite().all() and not learn.ema.swapped and learn.diffuse.gen is None
    fit(learn)

@pytest.mark.parametrize('name', refused)
@pytest.mark.parametrize('when', ['made', 'fit', 'class', 'added'])
def test_callbacks_that_are_refused(tmp_path, name, when):
    make, words = refused[name]
    with pytest.raises(ValueError, match=f'{name} {words}'):
        if when == 'made': fresh(tmp_path, cbs=make())
        if when == 'fit': fit(fresh(tmp_path), cbs=[make()])
        if when == 'class': fresh(tmp_path).add_cb(make)
        if when == 'added': fresh(tmp_path).add_cbs([make()])

def test_the_graph_of_the_bar(tmp_path):
    learn = fresh(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()): learn.fit(2, cbs=ShowGraphCallback())
    assert learn.ema.n == 8

def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback, TensorBoardProjectorCallback
    plain = dict(trace_model=False, log_preds=False)
    for cb in (TensorBoardCallback(tmp_path), TensorBoardCallback(tmp_path, log_preds=False), TensorBoardCallback(tmp_path, trace_model=False), TensorBoardCallback, TensorBoardProjectorCallback(tmp_path),
               TensorBoardCallback(tmp_path, projector=True, **plain)):
        with pytest.raises(ValueError, match='knows no noise level: a TensorBoardCallback can do with trace_model=False and log_preds=False'): fresh(tmp_path).add_cb(cb)
    learn = fit(fresh(tmp_path), cbs=TensorBoardCallback(tmp_path/'tb', **plain))
    assert learn.ema.n == 4 and [*(tmp_path/'tb').iterdir()]

@pytest.mark.parametrize('name', ['EMA', 'DropLabel', 'FiniteLoss'])
def test_ours_can_be_taken_away(tmp_path, name):
    learn = fresh(tmp_path)
    learn.remove_cb(next(cb for cb in learn.cbs if type(cb).__name__ == name))
    fit(learn)
    learn.load(learn.save('x').stem)
    if name == 'EMA':
        with pytest.raises(ValueError, match='SampleGrid draws from the average: keep EMA'): fit(learn, cbs=SampleGrid(n=1, folder=tmp_path))

# --- guided by what was never seen --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('p, w, said', [(0, 1., 'no example without its label, and w = 1 .* w=0'), (0, 0., None), (1, 1., 'no example with its label, and w = 1 .* w=-1'), (1, -1., None), (1, 0., 'no example with its label'), (.1, 3., None)])
@pytest.mark.parametrize('kind', [SampleGrid, Monitor])
def test_guidance_that_was_never_trained(tmp_path, p, w, said, kind):
    learn = fresh(tmp_path, p_uncond=p)
    learn.add_cb(kind(every=9, w=w))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        fit(learn)
    found = [str(o.message) for o in found if 'p_uncond' in str(o.message)]
    assert len(found) == (said is not None)
    if said: assert re.search(said, found[0])

# --- loaders that are not ours ------------------------------------------------------------------------------------------------------------------------

def loaders(x, y, bs=32, n_valid=32, **kwargs):
    "torch's own"
    train, valid = (TensorDataset(*o) for o in ((x[n_valid:], y[n_valid:]), (x[:n_valid], y[:n_valid])))
    return DataLoaders(DataLoader(train, bs, shuffle=True, **kwargs), DataLoader(valid, bs, **kwargs))

def train(d, network, *cbs, **kwargs):
    torch.manual_seed(0)
    return fit(diffusion_learner(d, network, cbs=cbs, **dict(dict(decay=.9), **kwargs)))

def test_torch_loaders_train_and_are_drawn(tmp_path):
    learn = train(loaders(*images()), net(), SampleGrid(n=1, folder=tmp_path), look := Look())
    assert learn.ema.n == 2 and [*tmp_path.glob('step*')]
    with quiet(learn): learn.validate(), learn.get_preds(dl=learn.dls.valid)
    z, lam, y, eps = look.seen[0]
    assert z.dtype == eps.dtype == torch.float32 and y.dtype == torch.int64

@pytest.mark.parametrize('cast', [lambda x: ((x+1)*127.5).round().byte(), lambda x: x.double(), lambda x: x.half(), lambda x: x.bfloat16()], ids=['uint8', 'float64', 'float16', 'bfloat16'])
def test_images_of_other_dtypes(cast):
    x, y = images()
    train(loaders(cast(x), y), net(), look := Look())
    train(loaders(x, y), net(), same := Look())
    (z, lam, _, _), (z2, lam2, _, _) = look.seen[0], same.seen[0]
    assert z.dtype == torch.float32 and torch.equal(lam, lam2)
    torch.testing.assert_close(z, z2, atol=8e-3, rtol=0)    # bytes are [−1, 1]

@pytest.mark.parametrize('x, words', [
    (lambda x: ((x+1)*127.5).long(), 'x must be images in .* got 0 to 25'), (lambda x: (x+1)*127.5, 'x must be images in'), (lambda x: 2.5*x, 'x must be images in'), (lambda x: x/0, 'x must be finite, 32 of 32 are not')],
    ids=['int64', 'to 255', 'standardised', 'infinite'])
def test_images_outside(x, words):
    z, y = images()
    with pytest.raises(ValueError, match=words): diffusion_learner(loaders(x(z), y), net())

@pytest.mark.parametrize('x, words', [(lambda x: (x+1)/2, r'from .* to .*taken to lie in \[-1, 1\]'), (lambda x: (x > 0).byte(), 'taken to lie in 0…255')])
def test_images_that_look_like_another_range(x, words):
    z, y = images()
    with pytest.warns(UserWarning, match=words): diffusion_learner(loaders(x(z), y), net())

@pytest.mark.parametrize('scale', [.5, 40.])
@pytest.mark.parametrize('c', [2, 4])
def test_latents_have_any_range(c, scale):
    x, y = images(c=c)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', category=UserWarning)
        diffusion_learner(loaders(x.abs()*scale, y), net(c=c))

def test_points_have_any_range():
    x = torch.rand(96, 2)*50
    with warnings.catch_warnings():
        warnings.filterwarnings('error', category=UserWarning)
        diffusion_learner(loaders(x, torch.arange(96)%2), MLP(2, width=16, depth=1))

def one_hot(y): return F.one_hot(y, 2)
@pytest.mark.parametrize('y, words', [
    (lambda y: y.float(), r'for y of torch.float32 \(32,\): integers \(b,\) are classes'), (one_hot, r'for y of torch.int64 \(32, 2\): integers'), (lambda y: one_hot(y).float(), 'got 2 classes, for y of torch.float32'), (lambda y: y[:,None], r'torch.int64 \(32, 1\)'),
    (lambda y: y.int(), 'y must be torch.int64, 0…1, got torch.int32 up to 1'), (lambda y: y.byte(), 'y must be torch.int64, 0…1, got torch.uint8'), (lambda y: y.bool(), 'y must be torch.int64, 0…1, got torch.bool'), (lambda y: y.short(), 'y must be torch.int64'),
    (lambda y: y+1, 'y must be torch.int64, 0…1, got torch.int64 up to 2'), (lambda y: y-1, 'y must lie in 0 … 2'), (lambda y: 7*y, 'y must lie in 0 … 2'), (lambda y: y*math.nan, 'integers')],
    ids=['float', 'one-hot', 'float one-hot', 'column', 'int32', 'uint8', 'bool', 'int16', 'from 1', 'negative', 'gaps', 'nan'])
def test_labels_that_are_no_classes(y, words):
    x, classes = images()
    with pytest.raises(ValueError, match=words): diffusion_learner(loaders(x, y(classes)), net())

def test_held_out_labels_are_looked_at():
    x, y = images()
    y[3] = 2
    with pytest.raises(ValueError, match='0…1, got torch.int64 up to 2'): diffusion_learner(loaders(x, y), net())

@pytest.mark.parametrize('y, words', [
    (lambda y: y.float(), 'numbers, and several labels, are floats'), (lambda y: y, 'as many classes as the data, 2, got 2 numbers'), (one_hot, 'y must be torch.float32, got torch.int64'), (lambda y: one_hot(y).double(), 'y must be torch.float32, got torch.float64'),
    (lambda y: F.one_hot(y, 3).float(), 'as many numbers in its condition as the data, 3, got 2'), (lambda y: one_hot(y)*math.inf, 'y must be finite in each row')],
    ids=['a number', 'classes', 'integers', 'float64', 'three', 'infinite'])
def test_numbers_that_do_not_fit(y, words):
    x, classes = images()
    with pytest.raises(ValueError, match=words): diffusion_learner(loaders(x, y(classes)), net(cond=Vector))

def test_several_labels_go_to_a_vector(tmp_path):
    x, y = images()
    learn = train(loaders(x, torch.stack([y, 1-y], 1).float()), net(cond=Vector), SampleGrid(n=1, folder=tmp_path))
    assert learn.ema.n == 2 and [*tmp_path.glob('step*')]

def batches(make): return DataLoaders(*[DataLoader(TensorDataset(*images()), 32, collate_fn=make) for _ in range(2)])
def stack(b): return [torch.stack(o) for o in zip(*b)]
@pytest.mark.parametrize('make, words', [
    (lambda b: dict(zip('xy', stack(b))), r"got dict of \['str', 'str'\]"), (lambda b: stack(b)[0], 'got Tensor of'), (lambda b: stack(b)[:1], r'got list of \[torch.float32\]'), (lambda b: (*stack(b), 1), r"got tuple of \[torch.float32, torch.int64, 'int'\]"),
    (lambda b: (stack(b)[0], ['cat']*32), r"got tuple of \[torch.float32, 'list'\]"), (lambda b: (*stack(b), stack(b)[1]), 'got tuple of'), (lambda b: (stack(b)[0], dict(y=stack(b)[1])), r"\[torch.float32, 'dict'\]"), (lambda b: (stack(b)[0].cfloat(), stack(b)[1]), r'\[torch.complex64, torch.int64\]')],
    ids=['dict', 'x alone', 'list of x', 'with an index', 'strings', 'three', 'dict inside', 'complex'])
def test_batches_that_are_no_pairs(make, words):
    with pytest.raises(ValueError, match=f'dls must give pairs of real tensors .x, y., all y 0 where there are no labels, .*{words}'): diffusion_learner(batches(make), net())

@pytest.mark.parametrize('d, words', [(lambda: loaders(*images()).train, 'got DataLoader of 0'), (lambda: DataLoaders(loaders(*images()).train), 'got DataLoaders of 1'), (lambda: [*images()], 'got list of 0'), (lambda: None, 'got NoneType of 0')],
    ids=['one loader', 'without valid', 'tensors', 'none'])
def test_what_are_no_loaders(d, words):
    with pytest.raises(ValueError, match='dls must be `DataLoaders.train, valid.`.*' + words): diffusion_learner(d(), net())

def test_nothing_held_out(tmp_path):
    x, y = images()
    d = loaders(x, y)
    d.valid = DataLoader(TensorDataset(x[:0], y[:0]), 32)
    learn = train(d, net(), SampleGrid(n=1, folder=tmp_path))
    assert learn.ema.n == 2 and [*tmp_path.glob('step*')] and not learn.ema.swapped

def test_nothing_to_train_on():
    x, y = images()
    for d in (loaders(x, y, bs=500, drop_last=True), DataLoaders(DataLoader(TensorDataset(x[:0], y[:0])), DataLoader(TensorDataset(x, y)))):
        with pytest.raises(ValueError, match='dls.train must give a batch, got none'): diffusion_learner(d, net())

def test_a_last_batch_of_one():
    x, y = images(97)
    learn = train(loaders(x, y, bs=32, n_valid=32), net())
    assert learn.ema.n == 3 and flat(learn.model).isfinite().all()                           # 32, 32 and 1
    assert train(loaders(x, y, bs=16, n_valid=33), net()).recorder.values[0][1] > 0

def test_loaders_with_workers():
    assert train(loaders(*images(), num_workers=1), net()).ema.n == 2

def test_our_own_loaders_keep_their_order():
    a, b = dls(), dls()
    diffusion_learner(a, net())
    for (x, _), (z, _) in zip(a.train, b.train): assert torch.equal(x, z)
    torch.manual_seed(0)
    diffusion_learner(a, network := net())
    torch.manual_seed(0)
    after = torch.get_rng_state()
    diffusion_learner(a, network)
    assert torch.equal(torch.get_rng_state(), after)                                         # nor does the door draw

# --- fastai's loaders of pictures ---------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    for i in range(48):
        file = path/'abc'[i%3]/f'{i}.png'
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(file)
    return path
def block(path, *blocks, **kwargs): return DataBlock(blocks=blocks, get_items=get_image_files, item_tfms=Resize(4), **kwargs).dataloaders(path, bs=16, num_workers=0)
halves = dict(batch_tfms=Normalize.from_stats([.5]*3, [.5]*3, cuda=False))

def test_a_folder_of_classes(pictures, tmp_path):
    how = dict(valid_pct=.3, seed=0, item_tfms=Resize(4), bs=16, num_workers=0)
    with pytest.warns(UserWarning, match=r'x has values from .* to .*, and images are taken to lie in \[-1, 1\]'): diffusion_learner(ImageDataLoaders.from_folder(pictures, **how), net(3, 3))
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='x has values')
        learn = train(ImageDataLoaders.from_folder(pictures, **how, **halves), net(3, 3), SampleGrid(n=1, folder=tmp_path/'samples'), path=tmp_path)
    assert learn.ema.n == 2 and [*(tmp_path/'samples').iterdir()]
    with quiet(learn): learn.validate(), learn.get_preds(), learn.summary()
    learn.load(learn.save('x').stem)
    learn.export('l.pkl')
    with pytest.warns(UserWarning): assert load_learner(tmp_path/'l.pkl').dls.vocab == ['a', 'b', 'c']
    with pytest.raises(ValueError, match='as many classes as the data, 3, got 2'): diffusion_learner(ImageDataLoaders.from_folder(pictures, **how, **halves), net(2, 3))

@pytest.mark.parametrize('name', [lambda p: parent_label(p), lambda p: 'abc'.index(parent_label(p)), lambda p: 'abc'.index(parent_label(p)) > 0], ids=['strings', 'integers', 'bool'])
def test_names_of_classes(pictures, name):
    d = block(pictures, ImageBlock, CategoryBlock, get_y=name, **halves)
    assert train(d, net(d.c, 3)).ema.n > 0

def test_grey_pictures(pictures):
    d = block(pictures, ImageBlock(PILImageBW), CategoryBlock, get_y=parent_label, batch_tfms=Normalize.from_stats([.5], [.5], cuda=False))
    assert train(d, net(3, 1)).ema.n > 0

def test_several_labels_of_pictures(pictures, tmp_path):
    d = block(pictures, ImageBlock, MultiCategoryBlock, get_y=lambda p: [parent_label(p), 'all'], **halves)
    learn = train(d, net(4, 3, cond=Vector), SampleGrid(n=1, folder=tmp_path))
    assert learn.ema.n > 0 and learn.first_y.shape[1] == 4 and [*tmp_path.iterdir()]
    with pytest.raises(ValueError, match=r'as many numbers in its condition as the data, 4, got 4 classes, for y of torch.float32 \(\d+, 4\).*several labels.*cond=Vector'): diffusion_learner(d, net(4, 3))

def test_a_number_to_each_picture(pictures):
    one = block(pictures, ImageBlock, RegressionBlock, get_y=lambda p: 1.5, **halves)
    for network in (net(1, 3), net(1, 3, cond=Vector)):
        with pytest.raises(ValueError, match=r'numbers, and several labels, are floats \(b, d\)'): diffusion_learner(one, network)
    row = block(pictures, ImageBlock, RegressionBlock, get_y=lambda p: [1.5], **halves)
    assert train(row, net(1, 3, cond=Vector)).ema.n > 0

def test_pictures_without_label(pictures):
    with pytest.raises(ValueError, match=r'all y 0 where there are no labels, got tuple of \[torch.float32\]'): diffusion_learner(block(pictures, ImageBlock), net(1, 3))
    with pytest.raises(ValueError, match='got tuple of'): diffusion_learner(block(pictures, ImageBlock, CategoryBlock, CategoryBlock, get_y=[parent_label]*2, n_inp=1), net(1, 3))
    d = block(pictures, ImageBlock, CategoryBlock, get_y=lambda p: 0, **halves)
    assert train(d, net(1, 3)).ema.n > 0                                                     # all of one class

# --- the noisy classifier -----------------------------------------------------------------------------------------------------------------------------

class Reads(nn.Module):
    "Logits of images"
    def __init__(self, n=2):
        super().__init__()
        self.net = nn.Linear(17, n)
    def forward(self, z, lam): return self.net(torch.cat([z.flatten(1), lam[:,None]], 1))

def reader(tmp_path, d=None, n=2, seed=1, **kwargs):
    torch.manual_seed(seed)
    return classifier_learner(d or dls(), Reads(n), path=tmp_path, **kwargs)

def test_the_best_classifier_is_put_back_whole(tmp_path):
    learn = fit(reader(tmp_path), 3, cbs=[SaveModelCallback('accuracy', fname='best'), both := Both()])
    found = [v[2] for v in learn.recorder.values]
    weights, average, n = both.seen[found.index(max(found))]
    again = reader(tmp_path, seed=2).load('best', with_opt=False)
    for o in (learn, again): assert torch.equal(flat(o.model), weights) and torch.equal(flat(o.ema.avg), average) and o.ema.n == n
    again.export('c.pkl')
    with pytest.warns(UserWarning): exported = load_learner(tmp_path/'c.pkl')
    assert torch.equal(flat(exported.ema.avg), average)

@pytest.mark.parametrize('name', methods)
def test_methods_of_the_classifier(tmp_path, name):
    learn = reader(tmp_path)
    with quiet(learn): getattr(learn, name)(*methods[name])
    fit(learn)
    assert flat(learn.model, learn.ema.avg).isfinite().all() and not learn.ema.swapped

@pytest.mark.parametrize('name', copied)
def test_callbacks_of_the_classifier(tmp_path, name):
    learn = fit(reader(tmp_path), 2, cbs=works[name]())
    assert flat(learn.model).isfinite().all() and not learn.ema.swapped

def test_what_the_classifier_refuses(tmp_path):
    for name in meaningless:
        with pytest.raises(NotImplementedError, match='know no noise level'): getattr(reader(tmp_path), name)(*meaningless[name])
    for name, (make, words) in refused.items():
        with pytest.raises(ValueError, match=f'{name} {words}'): reader(tmp_path, cbs=make())

def test_arguments_of_the_classifier(tmp_path):
    learn = fit(reader(tmp_path, opt_func=Adam, loss_func=nn.NLLLoss(torch.tensor([1., 2.])), metrics=[]))
    assert learn.metrics == [] and learn.loss_func.weight[1] == 2 and 'OptimWrapper' not in type(learn.opt).__name__

@pytest.mark.parametrize('at', ['before_batch', 'after_pred', 'after_validate'])
def test_the_classifier_is_put_back(tmp_path, at):
    learn = fit(reader(tmp_path))
    average = flat(learn.ema.avg)
    with quiet(learn), pytest.raises(KeyboardInterrupt): learn.validate(cbs=Stop(KeyboardInterrupt, at))
    assert torch.equal(flat(learn.ema.avg), average) and not learn.ema.swapped and learn.diffuse_input.gen is None

def test_torch_loaders_for_the_classifier(tmp_path):
    learn = fit(reader(tmp_path, loaders(*images())))       # nobody says how many classes
    assert learn.ema.n == 2 and len(learn.recorder.values[0]) == 3

@pytest.mark.parametrize('y, words', [
    (lambda y: y.float(), r'y must be torch.int64 \(b,\), classes 0…inf, got torch.float32 \(32,\) from 0.0 to 1.0'), (one_hot, r'got torch.int64 \(32, 2\)'), (lambda y: y.int(), 'got torch.int32'), (lambda y: y.byte(), 'got torch.uint8'),
    (lambda y: y.bool(), 'got torch.bool'), (lambda y: y-1, 'from -1 to 0')], ids=['float', 'one-hot', 'int32', 'uint8', 'bool', 'negative'])
def test_labels_that_the_classifier_refuses(tmp_path, y, words):
    x, classes = images()
    with pytest.raises(ValueError, match=words): reader(tmp_path, loaders(x, y(classes)))

def test_the_door_of_the_classifier(tmp_path, pictures):
    x, y = images()
    net = Reads()
    net.n_classes = 2
    for d, words in ((loaders(x, y+1), 'classes 0…1, got torch.int64 .* from 1 to 2'), (batches(lambda b: dict(zip('xy', stack(b)))), 'got dict of'), (loaders(2.5*x, y), 'x must be images in'),
                     (block(pictures, ImageBlock, MultiCategoryBlock, get_y=lambda p: [parent_label(p)], **halves), r'y must be torch.int64 .*got torch.float32 \(\d+, 3\)')):
        with pytest.raises(ValueError, match=words): classifier_learner(d, net)
