"Photographs, arrays and finished caches become one kind of cache; what cannot be used is named"
import io, os, shutil, struct, zipfile, zlib
from pathlib import Path
from unittest.mock import patch
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageOps
from cfg_edu import pictures
from cfg_edu.cache import open_cache
from cfg_edu.data import rungs, to_unit
from cfg_edu.files import fingerprint
from cfg_edu.pictures import area, images_dls, prepare

def snap(f, w, h, i, mode='RGB', **kwargs):
    "A picture of noise"
    f.parent.mkdir(parents=True, exist_ok=True)
    a = np.random.default_rng(i).integers(0, 256, (h, w, 3), dtype=np.uint8)
    Image.fromarray(a).convert(mode).save(f, **kwargs)

def seen(f):
    "As a browser shows it on a white page"
    img = ImageOps.exif_transpose(Image.open(f))
    return Image.alpha_composite(Image.new('RGBA', img.size, 'white'), img.convert('RGBA')).convert('RGB')

def small(f, size=16): return np.rint(area(seen(f), size)).astype(np.uint8).transpose(2, 0, 1)

def rows(x, y): return {o.tobytes(): int(k) for o,k in zip(x.numpy(), y)}

def contents(d): return {str(f.relative_to(d)): f.read_bytes() for f in sorted(d.rglob('*')) if f.is_file() and f.name != '.lock'}

@pytest.fixture(scope='module')
def pics(tmp_path_factory):
    d = tmp_path_factory.mktemp('src')/'pics'
    for i in range(60): snap(d/('zoo', 'ant', 'yak')[i%3]/f'{i:03}.png', 20+i%5, 17+i%7, i)
    for i,mode in enumerate(('L', 'RGBA', 'P', '1', 'LA', 'CMYK')): snap(d/'zoo'/f'mode{mode}.{"tif" if mode == "CMYK" else "PNG"}', 30, 16, i, mode)
    turned = Image.Exif()
    turned[0x112] = 6                                                                  # "turn me by 90°"
    snap(d/'zoo'/'exif.jpeg', 40, 20, 9, exif=turned, quality=95)
    (d/'zoo'/'notes.txt').write_text('no picture')
    (d/'zoo'/'.hidden.png').write_text('no picture')
    (d/'.git').mkdir()
    snap(d/'yak'/'.thumbnails'/'1.png', 20, 20, 1)
    return d

def paths(d): return {f: k for k,c in enumerate(('ant', 'yak', 'zoo')) for f in (d/c).iterdir() if f.suffix.lower() in pictures._Folders.suffixes and f.name[0] != '.'}

# ---- class folders

def test_each_picture_is_there_once_with_its_class_and_upright(pics, tmp_path):
    x, y, meta = open_cache(prepare(pics, tmp_path/'c', size=16, n_workers=1))
    assert (meta['vocab'], meta['n']) == (['ant', 'yak', 'zoo'], 67)
    assert rows(x, y) == {small(f).tobytes(): k for f,k in paths(pics).items()}
    assert contents(prepare(pics, tmp_path/'d', size=16, n_workers=2)) == contents(tmp_path/'c')

def test_one_in_twenty_is_held_out_by_its_name_so_that_no_other_moves(pics, tmp_path):
    x, _, meta = open_cache(prepare(pics, tmp_path/'c', size=16, n_workers=1))
    held = {o.tobytes() for o in x[meta['n_train']:].numpy()}
    names = {str(f.relative_to(pics)): f for f in paths(pics)}
    assert held == {small(f).tobytes() for n,f in names.items() if int(fingerprint(n), 16)%20 == 0} and held
    try:
        for i in range(30): snap(pics/'yak'/f'new{i}.png', 20, 20, 900+i)
        x, _, meta = open_cache(prepare(pics, tmp_path/'c', size=16, n_workers=1))
        assert meta['n'] == 97 and held <= {o.tobytes() for o in x[meta['n_train']:].numpy()}
    finally:
        for f in pics.glob('yak/new*.png'): f.unlink()

def test_a_part_may_be_held_out_by_folder(pics, tmp_path):
    for part in ('train', 'val'): shutil.copytree(pics, tmp_path/'two'/part)
    for f in [*(tmp_path/'two/val/zoo').glob('[!.]*')][3:]: f.unlink()
    shutil.rmtree(tmp_path/'two/val/ant')                                              # need not hold every class
    x, y, meta = open_cache(prepare(tmp_path/'two', tmp_path/'c', size=16, n_workers=1))
    assert meta['n_train'] == 67 and rows(x[:67], y[:67]) == {small(f).tobytes(): k for f,k in paths(pics).items()}
    assert set(y[67:].tolist()) == {1, 2}
    snap(tmp_path/'two/val/elk/1.png', 20, 20, 1)
    with pytest.raises(ValueError, match='val has the class elk, .*train does not'): prepare(tmp_path/'two', tmp_path/'c', size=16)

def test_pictures_that_are_too_small_grow_and_none_is_left_out(tmp_path):
    for i,(w,h,mode) in enumerate(((40, 15, 'RGB'), (15, 40, 'RGB'), (40, 15, 'P'), (1, 1, 'RGB'), (40, 16, 'RGB'))): snap(tmp_path/'s'/'ab'[i%2]/f'{i}.png', w, h, i, mode)
    x, y, meta = open_cache(prepare(tmp_path/'s', tmp_path/'c', size=16, n_workers=1))
    rgb = [Image.open(f).convert('RGB') for f in sorted((tmp_path/'s').glob('*/*.png'), key=lambda f: f.name)]   # colours can be mixed, places in a palette cannot
    def up(img, *wh): return np.asarray(img.resize(wh, Image.Resampling.BICUBIC))
    want = [up(rgb[0], 43, 16)[:,13:29], up(rgb[1], 16, 43)[13:29], up(rgb[2], 43, 16)[:,13:29],           # 40·16/15 is 43 nearly
            np.asarray(rgb[3]).repeat(16, 0).repeat(16, 1), np.asarray(rgb[4])[:,12:28]]
    assert meta['n'] == 5 and rows(x, y) == {o.transpose(2, 0, 1).tobytes(): i%2 for i,o in enumerate(want)}

@pytest.mark.parametrize('name, write', [('zero.ppm', lambda f: f.write_bytes(b'P6\n0 5\n255\n')), ('text.png', lambda f: f.write_text('no picture')),
    ('cut.png', lambda f: f.write_bytes((f.parent/'002.png').read_bytes()[:400])), ('empty.jpg', Path.touch)])
def test_a_file_that_is_no_picture_is_named(pics, tmp_path, name, write):
    f = pics/'yak'/name
    write(f)
    try:
        with pytest.raises(ValueError) as e: prepare(pics, tmp_path/'c', size=16, n_workers=2)       # out of another process too
        assert str(e.value).startswith(f'{f} cannot be read as a picture: ') and '\n' not in str(e.value)
    finally: f.unlink()

def test_a_bomb_is_refused(pics, tmp_path):
    with patch.object(Image, 'MAX_IMAGE_PIXELS', 100), pytest.raises(ValueError, match='cannot be read as a picture: .*decompression bomb'):
        prepare(pics, tmp_path/'c', size=16, n_workers=1)

def test_folders_that_cannot_be_used_are_named(tmp_path):
    (tmp_path/'hollow/cat').mkdir(parents=True)
    with pytest.raises(ValueError, match='hollow: Found no valid file for the classes cat. Pictures end in .*, .jpg'): prepare(tmp_path/'hollow', tmp_path/'c')
    with pytest.raises(ValueError, match='cat holds no class folders, and nothing else that can be read'): prepare(tmp_path/'hollow/cat', tmp_path/'c')
    for d in ('train/cat', 'val'): snap(tmp_path/'flat'/d/'1.png', 20, 20, 1)                        # as ImageNet's validation part comes
    with pytest.raises(ValueError, match='val holds no class folders'): prepare(tmp_path/'flat', tmp_path/'c')
    with pytest.raises(ValueError, match='must hold at least two pictures'): prepare(tmp_path/'flat/train', tmp_path/'c')
    with pytest.raises(FileNotFoundError, match='nowhere does not exist'): prepare(tmp_path/'nowhere')
    for bad in (dict(size=0), dict(size=8.), dict(n_workers=0)):
        with pytest.raises(ValueError, match='must be an integer of at least 1, got'): prepare(tmp_path/'flat', **bad)

def test_a_changed_picture_is_read_again(pics, tmp_path):
    d = shutil.copytree(pics, tmp_path/'p')
    one = open_cache(prepare(d, tmp_path/'c', size=16, n_workers=1))[2]
    snap(d/'ant'/'001.png', 21, 18, 77)
    two = open_cache(prepare(d, tmp_path/'c', size=16, n_workers=1))[2]
    assert one['fingerprint'] != two['fingerprint'] and one['n'] == two['n']

# ---- pictures of every kind

def save(f, img, **kwargs):
    "A picture of any kind that this Pillow can write"
    f.parent.mkdir(parents=True, exist_ok=True)
    try: (img if isinstance(img, Image.Image) else Image.fromarray(img)).save(f, **kwargs)
    except (OSError, KeyError, ValueError) as e: pytest.skip(f'this Pillow does not write it: {e}')

def read(f, size=4):
    "What a file becomes, (size, size, 3)"
    return pictures._Folders(f.parent, size).small(f).transpose(1, 2, 0)

colour, clear = (200, 40, 90), (0, 255, 0)
def plain(mode): return Image.new('RGB', (8, 8), colour).convert(mode)
grey = round(200*299/1000 + 40*587/1000 + 90*114/1000)                                             # of ITU-R 601, as Pillow has it

@pytest.mark.parametrize('mode, name, want', [
    ('RGB', 'a.png', colour), ('RGB', 'a.bmp', colour), ('RGB', 'a.tif', colour), ('RGB', 'a.webp', colour), ('RGB', 'a.ppm', colour), ('RGB', 'a.tga', colour), ('RGB', 'a.jpg', colour),
    ('RGB', 'a.jfif', colour), ('RGB', 'a.jp2', colour), ('RGB', 'a.avif', colour), ('P', 'a.gif', colour), ('P', 'a.png', colour), ('P', 'a.bmp', colour), ('L', 'a.png', 3*(grey,)), ('L', 'a.jpg', 3*(grey,)),
    ('L', 'a.pgm', 3*(grey,)), ('CMYK', 'a.tif', colour), ('CMYK', 'a.jpg', colour), ('YCbCr', 'a.jpg', colour), ('LA', 'a.png', 3*(grey,)), ('RGBA', 'a.png', colour),
    ('RGBA', 'a.tif', colour), ('RGBA', 'a.webp', colour), ('RGBX', 'a.tif', colour)])
def test_a_colour_stays_in_every_mode(tmp_path, mode, name, want):
    lossy = name.endswith(('jpg', 'jfif', 'avif', 'webp', 'jp2', 'gif')) or mode in ('CMYK', 'YCbCr', 'P')
    save(tmp_path/name, plain(mode))
    assert np.abs(read(tmp_path/name).astype(int) - want).max() <= (26 if mode == 'P' else 6 if lossy else 0)

def png(f, bits, colour_type, rows, extra=b''):
    "A PNG from nothing: Pillow does not write all of them"
    def chunk(name, data): return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name+data))
    w = len(rows[0])//{0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    raw = b''.join(b'\0' + np.asarray(r, f'>u{bits//8}').tobytes() for r in rows)
    f.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, len(rows), bits, colour_type, 0, 0, 0)) + extra + chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND', b''))
    return f

ramp = [[k*65535//3 for k in range(4)]]*4
@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'big.tif', 'a.pgm', 'a.jp2'])
def test_16_bits_of_grey_are_scaled(tmp_path, name):
    a = np.array(ramp, np.uint16)
    if name == 'big.tif': Image.frombytes('I;16B', (4, 4), a.astype('>u2').tobytes()).save(tmp_path/name)
    else: save(tmp_path/name, a)
    assert read(tmp_path/name)[0].tolist() == [[k*85]*3 for k in range(4)]

def test_16_bits_of_colour_and_of_transparency_too(tmp_path):
    assert read(png(tmp_path/'rgb.png', 16, 2, [[65535, 0, 32896]*4]*4))[0,0].tolist() == [255, 0, 128]
    assert read(png(tmp_path/'la.png', 16, 4, [[0, 65535]*2 + [0, 0]*2]*4))[0].tolist() == [[0]*3]*2 + [[255]*3]*2
    assert read(png(tmp_path/'key.png', 16, 0, ramp, struct.pack('>I', 2) + b'tRNS' + struct.pack('>H', 0) + struct.pack('>I', zlib.crc32(b'tRNS\0\0'))))[0,:,0].tolist() == [255, 85, 170, 255]

@pytest.mark.parametrize('name, a', [('f.tif', np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), ('i.tif', np.arange(64, dtype=np.int32).reshape(8, 8)), ('s.tif', np.arange(-32, 32, dtype=np.int16).reshape(8, 8))])
def test_numbers_on_no_known_scale_are_refused_by_the_files_name(tmp_path, name, a):
    if a.dtype == np.int16:                                                                          # Pillow does not write it: the sign is a tag
        Image.fromarray(a.view(np.uint16)).save(tmp_path/name, tiffinfo={339: 2})
    else: save(tmp_path/name, a)
    with pytest.raises(ValueError, match=f'{name} cannot be read as a picture: its numbers, mode [FI], are on no known scale: save it with 8 or 16 bits'): read(tmp_path/name)

def hidden(f, mode, **kwargs):
    "Upper half: a colour that is not to be seen; lower half: one that is"
    a = np.zeros((8, 8, 4), np.uint8)
    a[:4], a[4:] = (*clear, 0), (*colour, 255)
    save(f, Image.fromarray(a).convert(mode), **kwargs)
    return f

@pytest.mark.parametrize('mode, name', [('RGBA', 'a.png'), ('RGBA', 'a.webp'), ('RGBA', 'a.tif'), ('LA', 'a.png'), ('RGBA', 'a.gif'), ('RGBA', 'a.tga'), ('RGBA', 'a.avif'), ('RGBA', 'a.jp2')])
def test_what_is_transparent_lies_on_white(tmp_path, mode, name):
    got = read(hidden(tmp_path/name, mode, **dict(lossless=True) if name == 'a.webp' else {}))
    below = colour if mode == 'RGBA' else 3*(grey,)
    assert np.abs(got[0].astype(int) - 255).max() <= (6 if 'avif' in name else 0) and np.abs(got[3].astype(int) - below).max() <= 8

def test_transparency_of_a_palette_of_a_key_and_by_halves(tmp_path):
    p = Image.new('P', (8, 8))
    p.putpalette([*clear, *colour])
    p.paste(1, (0, 4, 8, 8))
    save(tmp_path/'p.png', p, transparency=0)
    key = Image.new('RGB', (8, 8), clear)
    key.paste(colour, (0, 4, 8, 8))
    save(tmp_path/'key.png', key, transparency=clear)
    for f in ('p.png', 'key.png'): assert read(tmp_path/f)[[0, 3],0].tolist() == [[255]*3, [*colour]]
    save(tmp_path/'half.png', Image.new('RGBA', (8, 8), (0, 0, 0, 127)))
    assert read(tmp_path/'half.png')[0,0].tolist() == [128]*3

@pytest.mark.parametrize('turn', range(1, 9))
@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.webp', 'a.tif'])
def test_the_way_the_camera_was_held(tmp_path, turn, name):
    upright = np.kron([[30, 220], [120, 120]], np.ones((8, 8))).astype(np.uint8)[...,None].repeat(3, -1)
    stored = {1: upright, 2: upright[:,::-1], 3: upright[::-1,::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: np.rot90(upright[:,::-1], -1), 8: np.rot90(upright, -1)}[turn]
    exif = Image.Exif()
    exif[0x112] = turn
    save(tmp_path/name, np.ascontiguousarray(stored), exif=exif, **dict(lossless=True) if name == 'a.webp' else dict(quality=95))
    assert np.abs(read(tmp_path/name, 2)[...,0].astype(int) - [[30, 220], [120, 120]]).max() < 8

def test_of_an_animation_the_first_picture(tmp_path):
    frames = [Image.new('RGB', (8, 8), c) for c in (colour, clear)]
    for f in ('a.gif', 'a.png', 'a.webp', 'a.tif'):
        save(tmp_path/f, frames[0], save_all=True, append_images=frames[1:], **dict(lossless=True) if f == 'a.webp' else {})
        assert np.abs(read(tmp_path/f)[0,0].astype(int) - colour).max() <= 2

def test_what_is_left_out_is_counted_and_said(tmp_path):
    for c in 'ab':
        for i in range(2): snap(tmp_path/c/f'{i}.png', 20, 20, i)
    for name in ('a/1.heic', 'b/2.heic', 'a/notes.txt', 'b/README', '.DS_Store', 'a/.hidden.png', 'a/.git/1.png', '3.png', 'list.csv'):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_text('nothing')
    snap(tmp_path/'a'/'2024'/'may'/'5.jfif', 20, 20, 5, format='JPEG')
    with pytest.warns(UserWarning) as said: x, _, meta = open_cache(prepare(tmp_path, tmp_path/'.c', size=16, n_workers=1))
    text = str(said[0].message)
    assert meta['n'] == 5 and text.startswith(f'{tmp_path}: left out 2 .heic, ') and len(said) == 1
    for part in ('1 .txt', '1 without a suffix', '1 .png outside the class folders', 'pictures end in ', ' .jfif'): assert part in text
    assert 'csv' not in text and 'DS_Store' not in text and '.heic' not in text.split('end in')[1]

@pytest.mark.parametrize('name', ['val', 'valid'])
def test_both_names_of_the_part_that_is_held_out(tmp_path, name):
    for part in ('train', name, 'test'):
        for c in 'ab': snap(tmp_path/part/c/'1.png', 20, 20, 1)
    with pytest.warns(UserWarning, match='left out test$'): meta = open_cache(prepare(tmp_path, tmp_path/'.c', size=16, n_workers=1))[2]
    assert (meta['vocab'], meta['n'], meta['n_train']) == (['a', 'b'], 4, 2)
    shutil.rmtree(tmp_path/name)
    with pytest.raises(ValueError, match='holds train, and beside it neither val nor valid'): prepare(tmp_path, tmp_path/'.d', size=16)

def test_a_class_keeps_a_picture_to_train_on(tmp_path):
    unlucky = [f'{i}.png' for i in range(400) if int(fingerprint(f'one{os.sep}{i}.png'), 16)%20 == 0]
    snap(tmp_path/'one'/unlucky[0], 20, 20, 0)                                                         # by its name it would be held out
    for i in range(30): snap(tmp_path/'many'/f'{i}.png', 20, 20, i)
    _, y, meta = open_cache(prepare(tmp_path, tmp_path/'.c', size=16, n_workers=1))
    assert y[:meta['n_train']].tolist().count(1) == 1 and 0 < 31 - meta['n_train'] < 6
    snap(tmp_path/'one'/unlucky[1], 20, 20, 1)                                                         # now one of the two can be
    _, y, meta = open_cache(prepare(tmp_path, tmp_path/'.c', size=16, n_workers=1))
    assert y[:meta['n_train']].tolist().count(1) == 1 and y[meta['n_train']:].tolist().count(1) == 1
    for c in 'ab': snap(tmp_path/'.single'/c/'1.png', 20, 20, 1)
    with pytest.raises(ValueError, match='must hold at least two pictures of a class'): prepare(tmp_path/'.single', tmp_path/'.e', size=16)

def test_names_of_any_letters_links_and_relative_paths(tmp_path, monkeypatch):
    for c in ('café', '日本 語', "it's"):
        for i in range(2): snap(tmp_path/'my pictures'/c/f'ü {i}.png', 20, 20, i)
    (tmp_path/'link').symlink_to(tmp_path/'my pictures', target_is_directory=True)
    (tmp_path/'other').mkdir()
    (tmp_path/'other'/'tea').symlink_to(tmp_path/'my pictures'/'café', target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for k,p in enumerate(('my pictures', 'link', './my pictures/../link/')):
        meta = open_cache(prepare(p, tmp_path/f'c{k}', size=16, n_workers=2))[2]
        assert (meta['vocab'], meta['n']) == (['café', "it's", '日本 語'], 6)
    assert open_cache(prepare('other', tmp_path/'d', size=16, n_workers=1))[2]['n'] == 2

# ---- the area average

@given(st.integers(1, 40), st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_the_mean_is_kept_whatever_the_ratio(w, h, data):
    size = data.draw(st.integers(1, min(w, h)))
    p = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    s = min(w, h)
    square = p[(h-s)//2:(h-s)//2+s, (w-s)//2:(w-s)//2+s]
    got = area(p, size)
    assert got.shape == (size, size, 3) and np.allclose(got.mean((0, 1)), square.mean((0, 1)), atol=1e-3)
    assert np.allclose(area(p[...,0], size), got[...,0], atol=1e-3) and np.allclose(area(p.swapaxes(0, 1), size), got.swapaxes(0, 1), atol=1e-3)
    assert p.min() - 1e-3 <= got.min() and got.max() <= p.max() + 1e-3

def test_whole_ratios_are_means_of_blocks_and_as_pil_reduces():
    p = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    q = p[:12,:12]
    for k in (1, 2, 3, 4, 6, 12): assert np.allclose(area(q, 12//k), q.reshape(12//k, k, 12//k, k, 3).mean((1, 3)), atol=1e-4)
    assert np.abs(area(p[:,62:437], 75) - np.asarray(Image.fromarray(p[:,62:437]).reduce(5), np.float32)).max() < .53     # it rounds
    assert np.allclose(area(p, 64), area(p[:,62:437], 64))                                            # 62 pixels off the left, 63 off the right
    for s in (0, 376):
        with pytest.raises(ValueError, match=f'size must lie in 1…375, the shorter side of 500×375 pixels, got {s}'): area(p, s)

# ---- arrays

def arrays(n=2001, size=8):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8), rng.integers(0, 7, n)

def npz(f, x, y=None, save=np.savez):
    save(f, x, *([] if y is None else [y]))
    return f

@pytest.mark.parametrize('kind', ['npz', 'packed', 'unpacked'])
def test_arrays_come_in_all_forms(tmp_path, kind):
    imgs, cls = arrays()
    if kind == 'unpacked':
        for k,a in enumerate((imgs, cls)): np.save(tmp_path/f'arr_{k}.npy', a)
        src = tmp_path
    else: src = npz(tmp_path/'a.npz', imgs, cls, dict(npz=np.savez, packed=np.savez_compressed)[kind])
    x, y, meta = open_cache(prepare(src, tmp_path/'c', size=8))
    assert (meta['n'], meta['n_train'], meta['vocab']) == (2001, 1901, list('0123456'))
    at = {o.tobytes(): i for i,o in enumerate(imgs.transpose(0, 3, 1, 2))}
    place = torch.tensor([at[o.tobytes()] for o in x.numpy()])
    assert torch.equal(y, torch.tensor(cls)[place]) and len(place.unique()) == 2001
    assert (place[:1901].diff() > 0).all() and (place[1901:].diff() > 0).all()                        # each part in the order of the file
    assert abs(place[1901:].float().mean() - 1000) < 175                                              # held out: from everywhere (three standard errors)

def test_an_npz_that_cannot_be_used_is_named(tmp_path):
    imgs, cls = arrays(9)
    def refused(match, *args):
        with pytest.raises(ValueError, match=match) as e: prepare(npz(tmp_path/'bad.npz', *args), tmp_path/'c', size=8)
        assert 'bad.npz must hold uint8 images arr_0 (n, 8, 8, 3)' in str(e.value) and not (tmp_path/'c').exists()
    refused("KeyError: 'arr_1'", imgs)
    refused(r'got uint8 \(9, 8, 4, 3\)', imgs[:,:,:4], cls)
    refused(r'got uint8 \(9, 3, 8, 8\)', imgs.transpose(0, 3, 1, 2).copy(), cls)
    refused('got int32', imgs.astype(np.int32), cls)
    refused('got float64', imgs/255, cls)
    refused('Object arrays cannot be loaded', imgs, cls.astype(object))
    refused('int64 .8,', imgs, cls[:8])
    refused('from -1 to -1', imgs, cls*0-1)
    refused('to 1000000', imgs, cls*0 + 10**6)
    refused('bool', imgs, cls > 3)
    refused('complex128', imgs, cls+0j)
    with pytest.raises(ValueError, match='bad.npz must hold at least two images of a class'): prepare(npz(tmp_path/'bad.npz', imgs, np.arange(9)), tmp_path/'c', size=8)
    refused('float64', imgs, cls/2)
    refused(r'got uint8 \(1,', imgs[:1], cls[:1])

def test_damaged_and_hostile_archives_are_refused(tmp_path):
    imgs, cls = arrays()
    good = npz(tmp_path/'a.npz', imgs, cls).read_bytes()
    for bad in (good[:len(good)//2], good[:300_000] + bytes(9) + good[300_009:], b'', b'nonsense'):   # cut, changed inside, empty
        (tmp_path/'c.npz').write_bytes(bad)
        with pytest.raises(ValueError, match='c.npz must hold'): prepare(tmp_path/'c.npz', tmp_path/'c', size=8)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, dict(descr='|u1', fortran_order=False, shape=(10**12, 8, 8, 3)))
    with zipfile.ZipFile(tmp_path/'liar.npz', 'w') as z:                                              # 192 TB, it says
        for k in (0, 1): z.writestr(f'arr_{k}.npy', head.getvalue() + bytes(999))
    with pytest.raises(ValueError, match='liar.npz must hold'): prepare(tmp_path/'liar.npz', tmp_path/'c', size=8)
    (tmp_path/'bomb.npz').write_bytes(good)
    with patch.object(zipfile.ZipFile, 'infolist', return_value=[zipfile.ZipInfo('arr_0.npy')]) as o:
        o.return_value[0].file_size = 2**40                                                           # a terabyte of zeros
        with pytest.raises(ValueError, match='bomb.npz must hold .*would unpack to 1,099,511,627,776 bytes'): prepare(tmp_path/'bomb.npz', tmp_path/'c', size=8)
    np.save(tmp_path/'arr_0.npy', imgs)
    with pytest.raises(ValueError, match='FileNotFoundError.*arr_1.npy'): prepare(tmp_path, tmp_path/'c', size=8)

def test_numbers_that_no_image_has_are_named(tmp_path):
    imgs, cls = arrays(60)
    for name, y, says in (('from_1', cls+1, '^1 of 8 classes have no example to train on: 0$'), ('sparse', cls*100, '^594 of 601 classes .*: 1, 2, 3, 4, 5, 6, 7, 8, …$')):
        with pytest.warns(UserWarning, match=says): prepare(npz(tmp_path/f'{name}.npz', imgs, y), tmp_path/name, size=8)

@pytest.mark.parametrize('kind', [np.uint8, np.int32, np.uint64, '>i4'])
def test_labels_of_an_npz_may_be_integers_of_any_kind(tmp_path, kind):
    imgs, cls = arrays(200)
    _, y, meta = open_cache(prepare(npz(tmp_path/'a.npz', imgs, cls.astype(kind)), tmp_path/'c', size=8))
    assert y.dtype == torch.int64 and torch.equal(y.sort().values, torch.tensor(cls).sort().values)

def test_what_an_npz_holds_out_is_from_each_class(tmp_path):
    imgs, _ = arrays(400)
    cls = np.repeat([0, 1, 2], [300, 80, 20])                                                          # sorted, as class folders are
    _, y, meta = open_cache(prepare(npz(tmp_path/'a.npz', imgs, cls), tmp_path/'c', size=8))
    assert np.abs(y[meta['n_train']:].bincount(minlength=3).numpy() - [15, 4, 1]).max() <= 1

# ---- rungs

def test_a_finished_cache_is_taken_as_it_is(pics, tmp_path):
    c = prepare(pics, tmp_path/'c', size=16, n_workers=1)
    before = contents(c)
    assert prepare(c) == c and contents(c) == before
    (c/'meta.json').unlink()
    with pytest.raises(FileNotFoundError, match='is no finished image cache'): prepare(c)

def test_own_pictures_are_one_call(pics, tmp_path, monkeypatch):
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path))
    dls = images_dls(pics, 16, bs=4, device='cpu')
    xb, yb = dls.one_batch()
    assert (xb.shape, xb.dtype, list(dls.vocab), dls.train_ds.tensors[0].dtype) == ((4, 3, 16, 16), torch.float32, ['ant', 'yak', 'zoo'], torch.uint8)
    assert [o.name.split('-')[:2] for o in tmp_path.iterdir()] == [['pics', '16']]
    mine = {tuple(o.flatten().tolist()) for o in to_unit(dls.train_ds.tensors[0])}
    assert all(tuple(o.flatten().tolist()) in mine for xb,_ in dls.train for o in xb)                 # none is mirrored, unless asked for
    own = prepare(pics, size=16)
    assert images_dls(own, bs=4, device='cpu').one_batch()[0].shape == (4, 3, 16, 16)                 # a cache has a size of its own
    with pytest.raises(ValueError, match='holds images of 16 pixels, not 32'): images_dls(own, 32)
    with pytest.raises(ValueError, match='size must be an integer of at least 1'): images_dls(pics, 0)
    with pytest.raises(ValueError, match='path is needed'): images_dls()
    assert rungs['images'].make is images_dls
