"What stands on the axes, in the widgets and in the films, and what is refused before anything is drawn."
from base64 import b64decode
from io import BytesIO
import matplotlib.pyplot as plt
import numpy as np, pytest, torch
from matplotlib.colors import to_hex
from PIL import Image
from cfg_edu import plots
from cfg_edu.plots import (class_colors, explore, film, gallery, palette, show_density, show_field,
                           show_grid, show_paths, show_points)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


g = torch.Generator().manual_seed(0)
tops = torch.tensor([[-1., 0], [1, 0]])
y = torch.arange(30)%2
x = tops[y] + .4*torch.randn(30, 2, generator=g)
def logp(x, s=.4): return torch.logsumexp(-((x[:,None]-tops)**2).sum(-1)/(2*s*s), 1)
def numbers(o): return torch.tensor(np.asarray(o))


def test_colours():
    assert len(set(palette)) == 10 and all(to_hex(c).upper() == c for c in palette)
    assert class_colors([0, 1, 10]) == class_colors(torch.tensor([0, 1, 10])) == [palette[0], palette[1], palette[0]]


def test_points():
    ax = show_points(x.clone().requires_grad_(), y, vocab=['left', 'right'])
    dots = ax.collections[0]
    assert torch.allclose(numbers(dots.get_offsets()).float(), x)
    assert [to_hex(c).upper() for c in dots.get_facecolors()] == class_colors(y)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['left', 'right']
    assert show_points(x, ax=ax, c='k', marker='x') is ax and ax.get_aspect() == 1       # on the same axes
    assert show_points(x[:0]).collections[0].get_offsets().shape[0] == 0


def test_density():
    image = show_density(logp, n=32).images[0]
    assert image.get_array().max() == 1 and image.get_array().shape == (32, 32)            # the top of the grid is 1
    up = show_density(lambda x: x[:,1], n=16, log=False).images[0]                         # rises with x₂: last row on top
    assert (up.get_array()[-1] > up.get_array()[0]).all() and up.origin == 'lower'
    right = show_density(lambda x: x[:,0], n=16, log=False, extent=(0, 4, -1, 1))
    assert (right.images[0].get_array()[:,-1] > right.images[0].get_array()[:,0]).all()
    assert right.get_xlim() == (0, 4) and right.get_ylim() == (-1, 1)


def test_contours():
    "A Gaussian falls to half its height at s√(2 log 2); a class index is a colour, a colour too"
    for color in (0, palette[0]):
        ax = show_density(lambda x: -(x**2).sum(-1)/(2*.4**2), color=color, levels=[.5])
        line = ax.collections[0]
        radius = numbers(line.get_paths()[0].vertices).norm(dim=1)
        assert (radius - .4*(2*np.log(2))**.5).abs().max() < 2e-3
        assert to_hex(line.get_edgecolor()[0]).upper() == palette[0]


def test_field():
    "Each arrow is f at its foot; `scale` is the length that spans the width"
    f = lambda x: torch.stack([x[:,1], -x[:,0]], 1)
    ax = show_field(f, n=9, scale=30)
    q = ax.collections[0]
    at = numbers(q.XY).float()
    assert len(at) == 81 and torch.allclose(torch.stack([numbers(q.U), numbers(q.V)], 1).float(), f(at), atol=1e-6)
    assert q.scale == 30 and q.scale_units == 'width' and show_field(f).collections[0].scale is None


def test_paths():
    zs = torch.randn(7, 12, 2, generator=g)
    lines, rings, dots = show_paths(zs, torch.arange(12)).collections
    assert len(lines.get_segments()) == 12 and torch.allclose(numbers(lines.get_segments()[3]).float(), zs[:,3])
    assert torch.allclose(numbers(rings.get_offsets()).float(), zs[0])                     # rings at the start
    assert torch.allclose(numbers(dots.get_offsets()).float(), zs[-1])                     # dots at the end
    assert [to_hex(c).upper() for c in dots.get_facecolors()] == class_colors(range(12))
    assert to_hex(show_paths(zs).collections[2].get_facecolors()[0]).upper() == palette[0]


def test_grid():
    ramp = torch.linspace(-1, 1, 8).expand(8, 8)
    images = torch.stack([.3*ramp, 1.3*ramp, ramp])[:,None]
    images[2,0,2:5,2:5] = float('nan')
    o = numbers(show_grid(images, ncols=3, labels=['a', 'b', 'c']).images[0].get_array())  # (H, W, 3), 0 to 1
    assert o.shape == (4+8+2, 3*9+1, 3)                          # 4 rows for the labels, a line of 1 between images
    assert torch.allclose(o[5:13,1:9,0], images[0,0]/2+.5)
    assert o[5:13,10:18].amax() == 1 and o[5:13,10:18].amin() == 0                         # 1.3 is clipped
    assert o[7,21].tolist() == [1, 0, 1]                                                   # nan is magenta


def test_grid_of_colours():
    "Not square, an unfinished last row, half precision"
    rgb = torch.rand(5, 3, 4, 6, generator=g)*2-1
    o = numbers(show_grid(rgb, ncols=2).images[0].get_array())
    assert torch.allclose(o[11:15,1:7].permute(2, 0, 1), rgb[4]/2+.5)
    assert o[11:15,8:14].min() == 1                                                        # the empty place is white
    ax = show_grid(rgb.half(), title='five')
    assert ax.get_title() == 'five' and numbers(ax.images[0].get_array()).shape[1] == 3*7+1   # about square


def test_sliders():
    drawn = []
    box = explore(lambda w, kind: drawn.append((w, kind)), w=(0., 4., .5, 1.), kind=['a', 'b'])
    box.children[0].value, box.children[1].value = 3., 'b'
    assert drawn == [(1., 'a'), (3., 'a'), (3., 'b')]
    whole, tick = explore(lambda k, t: None, k=(1, 9, 2), t=True).children[:2]
    assert type(whole).__name__ == 'IntSlider' and whole.value == 1 and tick.value is True


@pytest.fixture
def pages(monkeypatch):
    "What `gallery` asks `show_grid` to draw"
    seen = []
    monkeypatch.setattr(plots, 'show_grid', lambda x, *a, **k: seen.append((x, k['labels'], k['title'])))
    return seen


def test_gallery(pages):
    images = torch.rand(100, 1, 4, 4, generator=g)
    box = gallery(images, torch.arange(100)%3, ['down', 'across', 'both'], per_page=12)
    menu, slider = box.children[:2]
    assert menu.options == ('all classes', 'down', 'across', 'both') and slider.max == 9
    assert torch.equal(pages[0][0], images[:12]) and pages[0][1][:4] == ['down', 'across', 'both', 'down']
    slider.value = 9
    assert torch.equal(pages[-1][0], images[96:])                     # an unfinished last page
    menu.value = 'both'                                               # 33 of them: three pages, and the slider moves back
    assert (slider.value, slider.max) == (3, 3)
    assert torch.equal(pages[-1][0], images[2::3][24:]) and pages[-1][1:] == (None, 'both, page 3 of 3')
    menu.value = 'all classes'
    assert slider.max == 9 and all(len(o[0]) for o in pages)          # no page is ever empty, on the way neither


def test_gallery_without_choice(pages):
    images = torch.rand(50, 1, 4, 4, generator=g)
    for labels in (None, [7]*50):                                     # no classes, or one: nothing to choose
        assert gallery(images, labels).children[0].options == ('all classes',)
        assert pages[-1][1] is None and pages[-1][2] == 'all classes, page 1 of 2'
    assert gallery(images, torch.arange(50)%2).children[0].options == ('all classes', '0', '1')


def hills(s):
    ax = show_density(lambda x: logp(x, s), n=32)
    ax.set_title(f's = {s:g}', fontsize=10)
    return ax


def frames(o): return [b64decode(p.split('"')[0]) for p in o.data.split('base64,')[1:]]


def test_film():
    values = [.2, .5, 1.2]
    o = film(hills, values, label='s', alt='two hills', start=1)
    assert len(set(frames(o))) == 3                                                        # each another picture
    assert {Image.open(BytesIO(p)).size for p in frames(o)} == {(576, 576)} and o.data.count('width="288"') == 3  # one size, or the page jumps
    assert 'display:block"' in o.data.split('<img')[2] and o.data.count('display:block"') == 1 and o.data.count('max-width:100%') == 3
    assert 'http' not in o.data and '<script' not in o.data                                # nothing is fetched
    assert 'value="1"' in o.data and '<output>s = 0.5</output>' in o.data and 'alt="two hills s = 1.2"' in o.data
    assert film(hills, values, label='s', alt='two hills', start=1).data == o.data         # the same each time
    assert plt.get_fignums() == []                                                         # no figure is left open


def test_film_of_anything():
    "Tensors, words, a figure, axes, nothing returned; a start from the end"
    def bare(v): plt.figure(figsize=(1, 1))
    assert film(bare, torch.tensor([1., 2.]), 'w', start=-1).data.count('w = 2') > 1
    assert '<output>linear</output>' in film(lambda v: plt.figure(figsize=(1, 1)), ['linear'], start=0).data
    assert '<output>kind cosine</output>' in film(bare, ['cosine'], 'kind').data
    with pytest.raises(IndexError): film(bare, [1, 2], start=2)


def test_film_text_cannot_break_the_page():
    o = film(hills, [.5], label='"s"', alt='a <b> {c}').data
    assert 'alt="a &lt;b&gt; {c} &quot;s&quot; = 0.5"' in o and 'aria-label="&quot;s&quot;"' in o


@pytest.mark.parametrize('call, says', [
    (lambda: show_points(torch.zeros(5, 3)), r'x must have shape \(n, 2\), got \(5, 3\)'),
    (lambda: show_points(torch.zeros(2, 5, 2)), r'x must have shape \(n, 2\), got \(2, 5, 2\)'),
    (lambda: show_points(x, y[:3]), 'y must have one entry for each of the 30, got 3'),
    (lambda: show_density(lambda x: x), r'f must return one value for each point, shape \(16384,\), got \(16384, 2\)'),
    (lambda: show_density(logp, extent=(2, -2, -1, 1)), r'extent must be r > 0 or \(left, right, bottom, top\)'),
    (lambda: show_field(logp, extent=0), 'extent must be r > 0'), (lambda: show_density(logp, extent=(1, 2)), 'extent must be'),
    (lambda: show_field(logp), r'f must return an arrow for each point, shape \(225, 2\), got \(225,\)'),
    (lambda: show_paths(torch.zeros(12, 2)), r'zs must have shape \(t, n, 2\), got \(12, 2\)'),
    (lambda: show_paths(torch.zeros(3, 12, 2), [0]), 'y must have one entry for each of the 12, got 1'),
    (lambda: show_grid(torch.zeros(4, 8, 8)), r'x must have shape \(n, 1, h, w\) or \(n, 3, h, w\), got \(4, 8, 8\)'),
    (lambda: show_grid(torch.zeros(4, 2, 8, 8)), 'x must have shape'),
    (lambda: show_grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8)), r'x must be float in \[-1, 1\], got torch.uint8'),
    (lambda: show_grid(torch.zeros(0, 1, 8, 8)), 'x must hold at least one image'),
    (lambda: show_grid(torch.zeros(7, 1, 8, 8), labels=['a']), 'labels must have one entry for each of the 7, got 1'),
    (lambda: explore(print, w=3.), r'w must be \(min, max, step'), (lambda: explore(print, w=[]), 'w must be'),
    (lambda: gallery(torch.zeros(0, 1, 8, 8)), 'at least one image'), (lambda: gallery(torch.zeros(4, 1, 8, 8), per_page=0), 'per_page be at least 1'),
    (lambda: gallery(torch.zeros(100, 1, 8, 8), [0, 1]), 'y must have one entry for each of the 100, got 2'),
    (lambda: film(hills, []), 'values must hold at least one value'),
    (lambda: film(hills, [.5], limit=2), 'the film must stay within 2 kB')])
def test_refused(call, says):
    with pytest.raises(ValueError, match=says): call()
    assert plt.get_fignums() == []                                    # refused before anything is drawn

def test_sharp():
    "A notebook's figures: twice the dots, shown at their old size, no more than 256 colours; nothing happens outside a notebook."
    from IPython.core.interactiveshell import InteractiveShell
    assert plots.sharp() is None and not InteractiveShell.initialized()
    class Shell(InteractiveShell):
        def enable_gui(self, gui=None): pass
    backend, shell = plt.get_backend(), Shell.instance()
    try:
        plots.sharp()
        fig = plt.figure(figsize=(3, 2), dpi=50)
        fig.gca().imshow(np.random.default_rng(0).random((60, 60, 3)))
        data, about = shell.display_formatter.format(fig)
        image, shown = Image.open(BytesIO(data['image/png'])), about['image/png']
        assert image.mode == 'P' and len(image.getcolors()) <= 256
        assert all(abs(n - 2*shown[k]) <= 1 for n, k in zip(image.size, ('width', 'height')))
        assert 60 < shown['height'] <= 110
    finally:
        plt.close('all')
        Shell.clear_instance()
        plt.switch_backend(backend)


def test_film_sharp_where_it_may_be():
    "Twice the dots, unless the film would then pass its limit; refused if it does so even at its own size."
    sharp = film(hills, [.5, 1.])
    kb = len(sharp.data)//1000
    plain = film(hills, [.5, 1.], limit=kb - 1)
    assert {Image.open(BytesIO(p)).size for p in frames(sharp)} == {(576, 576)} and {Image.open(BytesIO(p)).size for p in frames(plain)} == {(288, 288)}
    assert all(o.data.count('width="288"') == 2 for o in (sharp, plain)) and len(plain.data) < 1000*(kb - 1)
