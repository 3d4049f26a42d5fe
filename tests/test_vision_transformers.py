"""Vision transformers on random weights, against timm's own forward pass read through hooks."""

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from asic3d import vision_transformers
from asic3d.backbones import import_timm, load_backbone
from asic3d.errors import BackboneError
from asic3d.vision_transformers import FACETS, VisionTransformer, recognise

timm = import_timm()
TINY = {"depth": 3, "num_heads": 3, "embed_dim": 48, "num_classes": 0}
NETWORKS = {
    "dino": ("vit_small_patch8_224.dino", {"img_size": 32}),
    "dinov2": ("vit_small_patch14_dinov2.lvd142m", {"img_size": 56}),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2.lvd142m", {"img_size": 56}),
    "normalised queries and keys": ("vit_small_patch8_224.dino", {"img_size": 32, "qk_norm": True}),
    "dinov3": ("vit_small_patch16_dinov3.lvd1689m", {"img_size": 64}),
    "dinov3 with biases": ("vit_small_patch16_dinov3_qkvb.lvd1689m", {"img_size": 64}),
}


def random_model(name: str):
    timm_name, settings = NETWORKS[name]
    torch.manual_seed(0)
    model = timm.create_model(timm_name, pretrained=False, dynamic_img_size=True, **TINY, **settings).eval()
    for parameter in model.parameters():  # as made, biases are 0 and layer scales 1e-5: nothing would depend on them
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def backbone(model, *, layer=1, facet="key", stride=None, side=64) -> VisionTransformer:
    stride = stride or model.patch_embed.patch_size[0]
    return VisionTransformer(
        "tiny", model, layer=layer, facet=facet, stride=stride, side=side, fingerprint="", device=torch.device("cpu")
    )


def exploded(images, patch, stride):
    """Every patch that a stride visits cut out and laid beside the others, so that the plain stride visits the same."""
    before, count = (patch - stride) // 2, images.shape[-1] // stride
    rows, columns = ([range(i * stride - before, i * stride - before + patch) for i in range(count)] for _ in range(2))
    last = images.shape[-1] - 1
    pick = torch.tensor([[min(max(k, 0), last) for k in line] for line in rows]).flatten()
    assert rows == columns
    return images[:, :, pick][:, :, :, pick]


def reference(model, images, layer, facet, stride):
    """Tap and saliency from the plain model's forward pass, through hooks and with explicit attention."""
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    block, seen = model.blocks[layer], {}
    model.blocks[-1].attn.fused_attn = False  # the explicit path has a module to hook behind the softmax
    hooks = [
        block.norm1.register_forward_hook(lambda _, __, output: seen.update(normed=output)),
        block.register_forward_hook(lambda _, __, output: seen.update(token=output)),
        model.blocks[-1].attn.attn_drop.register_forward_hook(lambda _, __, output: seen.update(attention=output)),
    ]
    with torch.no_grad():
        final = model.forward_features((exploded(images, model.patch_embed.patch_size[0], stride) - mean) / std)
    for hook in hooks:
        hook.remove()
    model.blocks[-1].attn.fused_attn = True
    if facet == "token":
        tokens = final if layer == len(model.blocks) - 1 else seen["token"]
    else:
        tokens = seen["normed"] @ block.attn.qkv.weight.chunk(3)[FACETS.index(facet)].T
        tokens = tokens + bias(block.attn, facet)
    prefix, count = model.num_prefix_tokens, images.shape[-1] // stride
    tap = tokens[:, prefix:].reshape(len(images), count, count, -1).permute(0, 3, 1, 2)
    attention = seen["attention"][:, :, 0, prefix:].mean(1).reshape(len(images), count, count)
    low, high = attention.amin((1, 2), keepdim=True), attention.amax((1, 2), keepdim=True)
    return tap, (attention - low) / (high - low)


def bias(attention, facet):
    if attention.qkv.bias is not None:
        return attention.qkv.bias.chunk(3)[FACETS.index(facet)]
    if facet == "key" or attention.q_bias is None:
        return 0
    return attention.q_bias if facet == "query" else attention.v_bias


def check(model, images, layer, facet, stride):
    output = backbone(model, layer=layer, facet=facet, stride=stride)(images)
    tap, saliency = reference(model, images, layer, facet, stride)
    assert len(output.taps) == 1 and output.taps[0].is_contiguous()
    torch.testing.assert_close(output.taps[0], tap, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.saliency, saliency, rtol=1e-3, atol=1e-3)
    assert saliency.std() > 0.05


def images_of(side, seed=0):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("facet", FACETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_facet_and_saliency_of_the_plain_model(network, facet, layer):
    model = random_model(network)
    side = model.patch_embed.img_size[0]
    check(model, images_of(side), layer, facet, model.patch_embed.patch_size[0])


@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("network", NETWORKS)
def test_stride_and_side_against_patches_cut_out_one_by_one(network, strides):
    """Among them sides that the network was not made for, and a stride with an odd overlap (14 - 7)."""
    model = random_model(network)
    patch = model.patch_embed.patch_size[0]
    stride = {1: patch, 2: patch // 2, 3: 4 if patch % 4 == 0 else 2}[strides]
    check(model, images_of(stride * (24 if stride < 4 else 7), seed=strides), 1, "key", stride)


@pytest.mark.parametrize("network", ["dino", "dinov2", "dinov2 with registers"])
def test_learned_positions_are_resampled_to_the_strides_grid(network):
    """Positions alone, which timm's dynamic size and ours must place in the same way: at the patches' centres."""
    model = random_model(network)
    patch = model.patch_embed.patch_size[0]
    side = model.patch_embed.img_size[0]
    torch.nn.init.zeros_(model.patch_embed.proj.weight)
    torch.nn.init.zeros_(model.patch_embed.proj.bias)
    line = (torch.arange(side // patch) + 0.5) * patch  # the centre of each patch, pixels
    grid = torch.zeros(1, model.pos_embed.shape[1], 48)
    grid[0, -(len(line) ** 2) :, 0] = line.repeat(len(line))
    model.pos_embed.data.copy_(grid)
    read = backbone(model, stride=patch // 2)
    tokens, _ = read._positioned(read._patches(images_of(side)))
    count = 2 * side // patch
    x = tokens[0, model.num_prefix_tokens :, 0].reshape(count, count)
    wanted = (torch.arange(count) + 0.5) * patch / 2
    inside = slice(3, -3)  # a cubic kernel is exact on a ramp, away from its ends
    torch.testing.assert_close(x[3, inside], wanted[inside], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("stride", "shift"), [(8, 0), (4, 0), (2, 0), (1, 0.5)])
def test_cells_are_the_centres_of_equal_parts_of_the_image(stride, shift):
    model = random_model("dino")
    torch.nn.init.constant_(model.patch_embed.proj.weight, 1 / (3 * 8 * 8))  # the patch's mean
    torch.nn.init.zeros_(model.patch_embed.proj.bias)
    ramp = (torch.arange(64) + 0.5).expand(1, 3, 64, 64)  # each pixel says where its centre is
    patches = backbone(model, stride=stride)._patches(ramp)
    wanted = (torch.arange(64 // stride) + 0.5) * stride
    inside = slice(8 // stride, -8 // stride)
    torch.testing.assert_close(patches[0, 0, inside, 0], wanted[inside] + shift, rtol=0, atol=1e-3)


def test_saliency_spans_the_unit_range_and_an_even_map_is_zero():
    model = random_model("dino")
    saliency = backbone(model)(images_of(64)).saliency
    assert saliency.shape == (2, 8, 8)
    assert saliency.amin((1, 2)).tolist() == [0, 0] and saliency.amax((1, 2)).tolist() == pytest.approx([1, 1])
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    assert backbone(model)(images_of(64)).saliency.abs().max() == 0


@pytest.mark.parametrize("network", ["dino", "dinov2 with registers", "dinov3 with biases"])
def test_runs_where_it_is_told(network):
    model = random_model(network)
    settings = {"layer": 1, "facet": "key", "stride": 4, "side": 64, "fingerprint": ""}
    output = VisionTransformer("tiny", model, **settings, device=torch.device("meta"))(images_of(64))
    assert (output.taps[0].device.type, output.taps[0].shape) == ("meta", (2, 48, 16, 16))
    assert output.saliency.device.type == "meta"


def test_layers_and_facets_that_are_not_there():
    model = random_model("dino")
    with pytest.raises(BackboneError, match=r"^tiny has the layers 0 to 2; there is no layer 3\.$"):
        backbone(model, layer=3)
    with pytest.raises(BackboneError, match=r"^There is no facet 'keys'; choose one of: query, key, value, token\.$"):
        backbone(model, facet="keys")


@pytest.mark.parametrize(("stride", "side"), [(9, 72), (3, 64), (4, 4)])
def test_strides_that_do_not_fit(stride, side):
    with pytest.raises(BackboneError) as caught:
        load_backbone("dino-vits8", weights="unread", stride=stride, side=side)
    assert str(caught.value) == (
        f"The stride {stride} does not fit dino-vits8: it lies between 1 and the patch's 8 pixels and divides the side "
        f"of the input, which is {side} and at least 8."
    )


@pytest.mark.parametrize("name", vision_transformers.ARCHITECTURES)
def test_the_architectures_are_timms(name):
    architecture = vision_transformers.ARCHITECTURES[name]
    with torch.device("meta"):
        models = [
            timm.create_model(variant.timm, pretrained=False, depth=1, dynamic_img_size=True)
            for variant in architecture.variants
        ]
    for model in models:
        assert model.patch_embed.proj.weight.shape == (architecture.width, 3, architecture.patch, architecture.patch)
        assert recognise(model.state_dict()) == name
    assert architecture.fetched in [variant.timm for variant in architecture.variants]
    assert architecture.side % architecture.patch == 0


def test_other_checkpoints_are_not_recognised():
    assert recognise({"conv_stem.weight": torch.zeros(1)}) is None
    assert recognise({"patch_embed.proj.weight": torch.zeros(1024, 3, 14, 14)}) is None


@pytest.fixture
def shallow(monkeypatch):
    """Networks of one block, so that checkpoints are small and quickly made."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **settings: create(name, depth=1, **settings))

    def make(name):
        model = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        return model

    return make


def saved(tensors, path):
    safetensors.torch.save_file({name: tensor.detach().clone() for name, tensor in tensors.items()}, path)
    return path


def tap_of(model, images, facet="key"):
    return backbone(model, layer=0, facet=facet, side=images.shape[-1])(images).taps[0]


@pytest.mark.parametrize("registers", [True, False])
def test_a_dinov2_checkpoint_as_published(shallow, tmp_path, registers):
    model = shallow(f"vit_small_patch14_{'reg4_' if registers else ''}dinov2.lvd142m")
    tensors = {"mask_token": torch.zeros(1, 384), **model.state_dict()}
    if registers:  # published with a position for the class token, which timm has added up
        tensors["register_tokens"] = tensors.pop("reg_token")
        position = torch.randn(1, 1, 384)
        tensors["cls_token"] = tensors["cls_token"] - position
        tensors["pos_embed"] = torch.cat([position, tensors["pos_embed"]], 1)
    path = saved(tensors, tmp_path / "weights.safetensors")
    loaded = load_backbone("auto", weights=path, layer=0, facet="key")
    assert (loaded.name, loaded.sides) == ("dinov2-vits14", (560,))
    images = images_of(56)
    torch.testing.assert_close(loaded(images).taps[0], tap_of(model, images), rtol=1e-4, atol=1e-4)


def test_a_dinov3_checkpoint_as_published(shallow, tmp_path, capfd):
    model = shallow("vit_small_patch16_dinov3_qkvb.lvd1689m")
    tensors = dict(model.state_dict())
    query, value = (tensors.pop(f"blocks.0.attn.{letter}_bias") for letter in "qv")
    tensors["blocks.0.attn.qkv.bias"] = torch.cat([query, torch.full_like(query, 7), value])
    tensors["blocks.0.attn.qkv.bias_mask"] = torch.zeros(1)
    tensors["rope_embed.periods"], tensors["mask_token"] = torch.zeros(1), torch.zeros(1, 384)
    for name in ("gamma_1", "gamma_2"):
        tensors[f"blocks.0.ls{name[-1]}.gamma"] = tensors.pop(f"blocks.0.{name}")
    tensors["storage_tokens"] = tensors.pop("reg_token")
    loaded = load_backbone("dinov3-vits16", weights=saved(tensors, tmp_path / "w.safetensors"), layer=0, facet="query")
    images = images_of(64)
    torch.testing.assert_close(loaded(images).taps[0], tap_of(model, images, "query"), rtol=1e-4, atol=1e-4)
    assert capfd.readouterr() == ("", "")


def test_fingerprint_changes_with_the_settings(shallow, tmp_path):
    path = saved(shallow("vit_small_patch8_224.dino").state_dict(), tmp_path / "weights.safetensors")
    settings = [{}, {"facet": "token"}, {"stride": 4}, {"side": 64}]
    made = [load_backbone("dino-vits8", weights=path, layer=0, **setting).fingerprint for setting in settings]
    assert len(set(made)) == len(made)
    assert load_backbone("dino-vits8", weights=path, layer=0).fingerprint == made[0]


def test_weights_of_another_transformer_are_refused(shallow, tmp_path):
    path = saved(shallow("vit_small_patch8_224.dino").state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(BackboneError) as caught:
        load_backbone("dinov3-vits16", weights=path)
    assert str(caught.value).startswith(f"'{path}' does not hold the weights of dinov3-vits16 (Missing key(s)")
    assert str(caught.value).endswith(
        ". Give those of timm/vit_small_patch16_dinov3.lvd1689m, or name the backbone that they belong to with "
        "--backbone (backbone= in Python)."
    )


def test_features_may_be_inputs_of_a_network_in_training():
    tap = backbone(random_model("dino"))(images_of(32)).taps[0]
    weight = torch.zeros(4, 48, 1, 1, requires_grad=True)
    F.conv2d(tap, weight).sum().backward()
    assert weight.grad.abs().max() > 0
