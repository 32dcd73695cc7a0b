"""Whatever the format, depth, colour space or orientation: the same upright RGB picture, or a reason."""

import io
import os
import struct
import tracemalloc
import warnings
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rightfit.data.image import MAX_PIXELS, decode, header, read_bytes, size
from rightfit.data.resize import ImageSpec
from rightfit.errors import ImageError, UsageError

H, W = 40, 60


def picture(height=H, width=W):
    """A smooth RGB gradient whose four corners differ, so that every turn and flip shows."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * x, 255 * y, 127 * (2 - x - y)], -1).round().astype(np.uint8)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def decoded(data, height=H, width=W, resize="crop"):
    pixels = decode(data, ImageSpec(height, width, resize), "x")
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    return pixels


def difference(a, b):
    """Mean absolute difference, in grey levels."""
    return np.abs(a.astype(int) - b.astype(int)).mean()


def refused(data):
    with pytest.raises(ImageError) as caught:
        decode(data, ImageSpec(H, W), "folder/x.jpg")
    assert caught.value.path == "folder/x.jpg"
    assert len(caught.value.reason) <= 120
    return caught.value.reason


def png_header(width, height):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "mode", "options", "error"),
    [
        ("JPEG", "RGB", {"quality": 95}, 2),
        ("JPEG", "RGB", {"quality": 95, "progressive": True}, 2),
        ("JPEG", "RGB", {"quality": 95, "keep_rgb": True}, 2),
        ("JPEG", "CMYK", {"quality": 95}, 2),
        ("PNG", "RGB", {}, 0),
        ("PNG", "RGBA", {}, 0),
        ("BMP", "RGB", {}, 0),
        ("BMP", "RGBA", {}, 0),
        ("WEBP", "RGB", {"lossless": True}, 0),
        ("WEBP", "RGBA", {"lossless": True}, 0),
        ("TIFF", "RGB", {}, 0),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}, 0),
        ("TIFF", "RGBA", {}, 0),
        ("TIFF", "CMYK", {}, 0),
        ("TIFF", "YCbCr", {}, 1.3),  # 8-bit YCbCr itself is off by 1.27
        ("PNG", "P", {}, 8),
        ("GIF", "P", {}, 8),
        ("TIFF", "P", {}, 8),
    ],
)
def test_every_format_and_colour_space_gives_the_same_picture(kind, mode, options, error):
    image = Image.fromarray(picture())
    image = image.quantize(256) if mode == "P" else image.convert(mode)
    assert difference(decoded(encoded(image, kind, **options)), picture()) <= error


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_grey_and_one_bit_pictures_have_three_equal_channels(kind):
    grey = picture()[..., 0]
    pixels = decoded(encoded(grey, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert difference(pixels, grey[..., None]) <= 1
    assert (pixels == pixels[..., :1]).all()
    if kind not in ("JPEG", "WEBP"):
        bits = decoded(encoded(Image.fromarray(grey > 127), kind))
        np.testing.assert_array_equal(bits, np.repeat((255 * (grey > 127))[..., None], 3, 2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = np.linspace(0, 65535, H * W).round().astype(np.uint16).reshape(H, W)
    pixels = decoded(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(pixels[..., 1], np.rint(values / 257))


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_16_bit_colour_is_scaled_not_clipped(kind):
    data = cv2.imencode(kind, picture()[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decoded(data), picture())


def test_a_16_bit_tiff_in_which_white_is_zero_is_inverted():
    values = picture()[..., 0].astype(np.uint16) * 257
    data = encoded(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    assert Image.open(io.BytesIO(data)).tag_v2[262] == 0
    np.testing.assert_array_equal(decoded(data)[..., 0], 255 - picture()[..., 0])


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_float_and_32_bit_tiffs_are_scaled_by_their_own_range(dtype):
    values = picture()[..., 0].astype(dtype) * 1000 - 70_000
    np.testing.assert_array_equal(
        decoded(encoded(Image.fromarray(values), "TIFF"))[..., 2], picture()[..., 0]
    )


def test_a_float_tiff_takes_four_times_its_bytes_at_most():
    data = encoded(
        Image.fromarray(np.linspace(0, 1, 2000 * 2000, dtype=np.float32).reshape(2000, -1)), "TIFF"
    )
    tracemalloc.start()
    pixels = decode(data, ImageSpec(2000, 2000), "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(data)
    assert (
        (np.diff(pixels[..., 0].ravel().astype(int)) >= 0).all() and pixels.min() == 0 and pixels.max() == 255
    )


def test_nan_and_constant_float_pixels_are_black():
    values = picture()[..., 0].astype(np.float32)
    values[3, 4], values[5, 6] = np.nan, np.inf
    expected = picture()[..., 0].copy()
    expected[3, 4] = expected[5, 6] = 0
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(values), "TIFF"))[..., 0], expected)
    assert not decoded(encoded(Image.fromarray(np.full((H, W), np.nan, np.float32)), "TIFF")).any()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_transparency_is_dropped(kind):
    image = Image.fromarray(picture()).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    data = encoded(image, kind, transparency=3 if kind == "GIF" else bytes([0, 128, 255] * 5))
    np.testing.assert_array_equal(decoded(data), expected)


def test_palette_transparency_does_not_warn_beside_a_text_chunk():
    image = Image.fromarray(picture()).quantize(16)
    text = PngInfo()
    text.add_itxt("Title", "eye")  # not a plain PNG: Pillow's
    data = encoded(image, "PNG", transparency=bytes([0, 128, 255] * 5), pnginfo=text)
    np.testing.assert_array_equal(decoded(data), np.asarray(image.convert("RGB")))


def test_plain_pngs_are_what_pillow_reads():
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image = Image.fromarray(picture()).convert(mode)
        for bits in (1, 2, 4, 8) if mode == "P" else (None,):
            image = Image.fromarray(picture()).quantize(2**bits) if bits else image
            data = encoded(image, "PNG", **({"bits": bits} if bits else {}))
            np.testing.assert_array_equal(
                decoded(data), np.asarray(image.convert("RGB")), err_msg=f"{mode} {bits}"
            )


def test_adobe_cmyk_is_not_inverted():
    white = encoded(Image.new("CMYK", (W, H), (0, 0, 0, 0)), "JPEG")
    assert b"Adobe" in white
    assert decoded(white).min() >= 250
    cyan = decoded(encoded(Image.new("CMYK", (W, H), (255, 0, 0, 0)), "JPEG"))
    np.testing.assert_allclose(cyan[0, 0], (0, 255, 255), atol=4)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "blue")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decoded(data)[0, 0], (255, 0, 0), err_msg=kind)


# Orientation and geometry --------------------------------------------------------------------------

STORED = {  # how a camera held that way stores the upright picture (TIFF 6.0, tag 274)
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: np.rot90(x, 2),
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_comes_out_upright(kind, orientation):
    upright = picture(8 * H, 8 * W)  # large: JPEG decodes it at a reduced scale
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encoded(np.ascontiguousarray(STORED[orientation](upright)), kind, exif=exif, **options)
    assert difference(decoded(data), picture()) < 3
    assert size(data) == (8 * H, 8 * W)


def test_exif_behind_the_pixels_of_a_png_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(np.ascontiguousarray(STORED[6](picture())), "PNG", exif=exif)
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    late = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    np.testing.assert_array_equal(decoded(late), picture())


def test_a_header_says_format_depth_and_the_size_as_displayed():
    exif = Image.Exif()
    exif[0x0112] = 6
    found = header(encoded(picture(20, 30), "JPEG", exif=exif), "x")
    assert (found.format, found.mode, found.bits, found.height, found.width) == ("JPEG", "RGB", 8, 30, 20)
    deep = cv2.imencode(".png", picture()[..., 0].astype(np.uint16))[1].tobytes()
    assert (header(deep, "x").format, header(deep, "x").bits) == ("PNG", 16)


def test_damaged_exif_does_not_spoil_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(), "JPEG", quality=95, exif=exif)
    at = data.index(b"Exif\0\0") + 6
    assert difference(decoded(data[:at] + b"\xff" * 16 + data[at + 16 :]), picture()) <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_crop_pad_and_stretch(kind):
    """A 300 x 600 picture, black | white | black in columns, of which the white is the middle half."""
    image = np.zeros((300, 600, 3), np.uint8)
    image[:, 150:450] = 255
    data = encoded(image, kind, **({"quality": 95} if kind == "JPEG" else {}))
    light = decoded(data, 100, 100, "crop") > 127
    assert light[:, 1:-1].all()  # a reduced JPEG blurs across the edge of the white
    light = decoded(data, 100, 100, "pad")[..., 0] > 127
    assert light[27:73, 27:73].all()
    assert light.sum() == pytest.approx(50 * 50, abs=100)
    assert not decoded(data, 100, 100, "pad")[:25].any()
    assert not decoded(data, 100, 100, "pad")[75:].any()
    light = decoded(data, 100, 100, "stretch")[..., 0] > 127
    assert light[:, 27:73].all()
    assert light.sum() == pytest.approx(100 * 50, abs=200)


def test_crop_takes_the_centre_and_keeps_the_aspect():
    whole = picture(100, 300)
    np.testing.assert_array_equal(decoded(encoded(whole, "PNG"), 100, 100), whole[:, 100:200])
    whole = picture(300, 100)
    np.testing.assert_array_equal(decoded(encoded(whole, "PNG"), 100, 100), whole[100:200])


def test_shrinking_averages_and_does_not_alias():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)
    means = noise.reshape(100, 4, 100, 4).mean((1, 3))
    np.testing.assert_allclose(decoded(encoded(noise, "PNG"), 100, 100)[..., 0], means, atol=1)
    tall = noise[:, :100]  # one side shrinks, the other grows
    means = tall.reshape(100, 4, 100).mean(1)
    np.testing.assert_allclose(
        decoded(encoded(tall, "PNG"), 100, 199, "stretch")[:, 0, 0], means[:, 0], atol=1
    )


def test_small_pictures_are_enlarged_smoothly():
    enlarged = decoded(encoded(picture(), "PNG"), 4 * H, 4 * W)
    assert difference(enlarged, picture(4 * H, 4 * W)) < 3


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_a_strip_one_pixel_wide_needs_no_memory(resize):
    data = encoded(np.full((1, 30_000), 200, np.uint8), "PNG")
    tracemalloc.start()
    assert decoded(data, 50, 50, resize).max() == 200
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_reduced_scale_jpeg_is_close_to_full_decoding(resize):
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    photo = cv2.resize(coarse, (800, 600), interpolation=cv2.INTER_CUBIC)
    data = simplejpeg.encode_jpeg(photo, 95)
    full = encoded(simplejpeg.decode_jpeg(data), "PNG")
    assert difference(decoded(data, 70, 70, resize), decoded(full, 70, 70, resize)) < 1.5


def test_jpegs_are_decoded_no_larger_than_needed(monkeypatch):
    shapes = []
    real = simplejpeg.decode_jpeg

    def spy(*args, **options):
        shapes.append(real(*args, **options).shape[:2])
        return real(*args, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", spy)
    data = encoded(picture(400, 800), "JPEG")
    for resize in ("crop", "pad", "stretch"):
        decoded(data, 100, 100, resize)
    assert shapes == [(100, 200), (50, 100), (100, 200)]


# What is refused -------------------------------------------------------------------------------------


def test_a_truncated_jpeg_says_how_many_rows_there_are():
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    data = simplejpeg.encode_jpeg(noise, 85)
    reason = refused(data[: len(data) // 2])
    assert reason.startswith("truncated JPEG, decoded 2")
    assert reason.endswith(" of 480 rows")
    assert refused(encoded(noise, "JPEG", progressive=True)[:50_000]).startswith("truncated JPEG")
    assert refused(data[:200]) == "unreadable JPEG"


def test_a_few_bytes_after_the_last_row_do_no_harm():
    data = encoded(picture(), "JPEG", quality=95)
    assert difference(decoded(data[:-2] + bytes(8) + data[-2:]), picture()) <= 2


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_truncated_files_are_refused(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    options = {"WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    data = encoded(noise, kind, **options)
    assert kind in refused(data[: int(len(data) * share)])


def test_a_truncated_cmyk_jpeg_is_refused():
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 4), np.uint8)
    data = encoded(Image.fromarray(noise, "CMYK"), "JPEG")
    assert refused(data[: len(data) // 2]) == "truncated JPEG"


def test_a_damaged_png_is_refused():
    data = bytearray(encoded(picture(), "PNG"))
    data[data.index(b"IDAT") + 40] ^= 0xFF
    assert "PNG" in refused(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just some text",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"8BPS\0\1" + bytes(100),
        b"\0\0\1\0\1\0" + bytes(100),
        b"P6 1 1 255 abc",
        b"\x89HDF\r\n\x1a\n",
    ],
)
def test_only_the_listed_formats_are_read(data):
    assert refused(data).startswith("not an image: the content is none of JPEG, PNG")


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("JPEG", b"\xff\xd8\xff"),
        ("PNG", b"\x89PNG\r\n\x1a\n"),
        ("BMP", b"BM"),
        ("GIF", b"GIF89a"),
        ("WEBP", b"RIFFabcdWEBP"),
        ("TIFF", b"II*\0"),
    ],
)
def test_garbage_behind_a_right_start_is_an_image_error(kind, start):
    bodies = [b"", *(np.random.default_rng(seed).bytes(300) for seed in range(20))]
    for reason in [refused(start + body) for body in bodies]:
        assert reason.startswith((f"truncated {kind}", f"unreadable {kind}")) or "pixels, more than" in reason


def test_huge_pictures_are_refused_before_they_are_decoded():
    jpeg = bytearray(encoded(picture(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 50_000, 50_000)
    tracemalloc.start()
    for data in (png_header(50_000, 50_000), bytes(jpeg)):
        assert refused(data) == f"50000 x 50000 pixels, more than {MAX_PIXELS:,}"
        with pytest.raises(ImageError, match="50000 x 50000 pixels"):
            size(data)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_large_pictures_pass_and_do_not_warn():
    assert MAX_PIXELS >= 5_000 * 5_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert size(png_header(12_000, 12_000)) == (12_000, 12_000)


def test_the_content_decides_not_the_name(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(), "WEBP", lossless=True))
    np.testing.assert_array_equal(decode(read_bytes(path), ImageSpec(H, W), str(path)), picture())
    assert size(path) == (H, W)


def test_unreadable_files_have_a_reason(tmp_path):
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "huge.jpg").touch()
    os.truncate(tmp_path / "huge.jpg", 2**32)
    reasons = {}
    for name in ("empty.jpg", "pipe.jpg", "gone.jpg", "huge.jpg", "nul\0.jpg"):
        with pytest.raises(ImageError) as caught:
            read_bytes(tmp_path / name)
        reasons[name] = caught.value.reason
    assert reasons == {
        "empty.jpg": "empty file",
        "pipe.jpg": "not a regular file",
        "gone.jpg": "no such file or directory",
        "huge.jpg": "4,294,967,296 bytes, more than 2,147,483,648",
        "nul\0.jpg": "embedded null byte",
    }


def test_urls_are_read(tmp_path):
    import fsspec

    fsspec.filesystem("memory").pipe("/images/a.png", encoded(picture(), "PNG"))
    np.testing.assert_array_equal(decoded(read_bytes("memory://images/a.png")), picture())
    assert size("memory://images/a.png") == (H, W)
    with pytest.raises(ImageError):
        read_bytes("memory://images/b.png")


@pytest.mark.parametrize("arguments", [(0, 5), (5, -1), (5, 5, "squash")])
def test_a_wrong_spec_is_a_usage_error(arguments):
    with pytest.raises(UsageError):
        ImageSpec(*arguments)


def tiff(height, rows_per_strip):
    """(height, 10) bytes of grey that declare only their first strip of so many rows, uncompressed."""
    pixels = bytes(range(10)) * rows_per_strip
    entries = [
        (256, 10),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(pixels)),
    ]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


def test_a_small_file_of_very_many_pixels_is_refused_before_it_is_decoded():
    picture = io.BytesIO()
    Image.new("1", (13_000, 13_000)).save(picture, "PNG")
    assert refused(picture.getvalue()).endswith("bytes, which no picture has")
    assert refused(tiff(4_000_000, 12)).endswith("bytes, which no picture has")
    plain = io.BytesIO()
    Image.new("1", (4_000, 4_000)).save(plain, "PNG")
    assert decode(plain.getvalue(), ImageSpec(8, 8, "stretch"), "a").max() == 0, "blank, and not that large"


def test_a_tiff_whose_strips_do_not_cover_it_is_truncated():
    whole = io.BytesIO()
    Image.fromarray(np.arange(200, dtype=np.uint8).reshape(20, 10)).save(whole, "TIFF", tiffinfo={278: 5})
    assert decode(whole.getvalue(), ImageSpec(20, 10, "stretch"), "a")[..., 0].ravel().tolist() == list(
        range(200)
    )
    data = bytearray(whole.getvalue())
    at = (
        data.index(struct.pack("<HH", 257, 4))
        if struct.pack("<HH", 257, 4) in data
        else data.index(struct.pack("<HH", 257, 3))
    )
    struct.pack_into("<I", data, at + 8, 40)  # twice as many rows as there are strips for
    assert "TIFF" in refused(bytes(data))
