"""Networks on images: convolutions with every normalisation, and the architectures of libraries."""

import pytest
import torch
from cases import CE, MSE, Case, case, images, trainable
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations


def small(norm, convolution=None):
    """A convolution, a normalisation, a smooth activation, and a classifier."""
    first = nn.Conv2d(2, 4, 3, padding=1) if convolution is None else convolution
    return nn.Sequential(
        first, norm, nn.SiLU(), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def warmed(model, x):
    """The model in evaluation mode, after its buffers have seen some data."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(x + 0.5)
    return model.eval()


@case
def batchnorm_frozen():
    x, y = images()
    return Case(model=warmed(small(nn.BatchNorm2d(4)), x), data=(x, y), loss=CE)


@case
def batchnorm_frozen_from_training_mode():
    x, y = images()

    def own(model, data, loss):
        return loss(model.eval()(data[0]), data[1])

    model = warmed(small(nn.BatchNorm2d(4)), x).train()
    return Case(model=model, data=(x, y), loss=CE, own=own)


@case
def batchnorm_of_the_batch():
    model = small(nn.BatchNorm2d(4)).train()
    return Case(model=model, data=images(), loss=CE, options={"statistics": "batch"})


@case
def groupnorm():
    return Case(model=small(nn.GroupNorm(2, 4)), data=images(), loss=CE)


@case
def layernorm():
    return Case(model=small(nn.LayerNorm((4, 6, 6))), data=images(4), loss=CE)


@case
def instancenorm():
    return Case(model=small(nn.InstanceNorm2d(4, affine=True)), data=images(), loss=CE)


@case
def weight_norm_old():
    data, convolution = images(), utils.weight_norm(nn.Conv2d(2, 4, 3, padding=1))
    model = small(nn.Identity(), convolution)
    model(data[0])  # The module now holds a weight that is no leaf.
    return Case(model=model, data=data, loss=CE)


@case
def weight_norm_new():
    convolution = parametrizations.weight_norm(nn.Conv2d(2, 4, 3, padding=1))
    return Case(model=small(nn.Identity(), convolution), data=images(), loss=CE)


@case
def spectral_norm_old():
    data, convolution = images(), utils.spectral_norm(nn.Conv2d(2, 4, 3, padding=1))
    model = warmed(small(nn.Identity(), convolution), data[0])
    model(data[0])  # The module now holds a weight that is no leaf.
    return Case(model=model, data=data, loss=CE)


@case
def spectral_norm_new():
    data, convolution = images(), parametrizations.spectral_norm(nn.Conv2d(2, 4, 3, padding=1))
    return Case(model=warmed(small(nn.Identity(), convolution), data[0]), data=data, loss=CE)


@case
def channels_last():
    x, y = images()
    model = small(nn.GroupNorm(2, 4)).to(memory_format=torch.channels_last)
    return Case(model=model, data=(x.to(memory_format=torch.channels_last), y), loss=CE)


@case
def rectified_and_pooled():
    x, y = images()
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(36, 3),
    )  # fmt: skip
    # Flat patches tie in the pooling.
    return Case(model=model, data=(x.clamp(0, 0.3), y), loss=CE)


class Residual(nn.Module):
    """Two blocks with a sum, written to in place as ResNets do it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.act, self.out = nn.ReLU(inplace=True), nn.Linear(3, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            found = block(x)
            found += x
            x = self.act(found)
        return self.out(x.mean((2, 3)))


@case
def residual_in_place():
    return Case(model=Residual(), data=images(), loss=CE)


@case
def densenet():
    models = pytest.importorskip("torchvision.models")
    model = models.DenseNet(
        growth_rate=2, block_config=(1, 1), num_init_features=2, bn_size=1, num_classes=3
    )
    data = images(6, 3, 16)
    model = trainable(warmed(model, data[0]), "features.dense", "features.trans", "classifier")
    return Case(model=model, data=data, loss=CE)


@case
def densenet_that_saves_memory():
    models = pytest.importorskip("torchvision.models")
    model = models.DenseNet(
        growth_rate=2, block_config=(2, 1), num_init_features=2, bn_size=1, num_classes=3,
        memory_efficient=True,
    )  # fmt: skip
    data = images(6, 3, 16)

    def own(model, data, loss):
        for module in model.modules():
            module.memory_efficient = False
        return loss(model(data[0]), data[1])

    model = trainable(warmed(model, data[0]), "features.dense", "classifier")
    return Case(model=model, data=data, loss=CE, own=own)


@case
def resnet():
    models = pytest.importorskip("torchvision.models")
    model = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1])
    # Cut short, as is usual for small images.
    model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 3)
    data = images(3, 3, 16)
    model = trainable(warmed(model, data[0]), "layer1.0.bn1.weight")
    return Case(model=model, data=data, loss=CE)


class UNet(nn.Module):
    """One level down and up again, with the features of the way down joined."""

    def __init__(self):
        super().__init__()
        self.down, self.middle = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(3, 3, 2, stride=2), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        kept = nn.functional.silu(self.down(x))
        low = nn.functional.silu(self.middle(nn.functional.avg_pool2d(kept, 2)))
        return self.out(torch.cat([kept, self.up(low)], 1))


@case
def unet():
    x, _ = images(4)
    return Case(model=UNet(), data=(x, x.sin()), loss=MSE)


@case
def mobilenet():
    models = pytest.importorskip("torchvision.models")
    setting = [[1, 8, 1, 1], [2, 8, 1, 2]]
    model = models.MobileNetV2(3, 1.0, setting, round_nearest=4, dropout=0.0)
    data = images(6, 3, 16)
    model = trainable(warmed(model, data[0]), "features.1.conv.1", "features.2.conv.1.1")
    return Case(model=model, data=data, loss=CE)


@case
def convnext():
    convnext = pytest.importorskip("torchvision.models.convnext")
    blocks = [convnext.CNBlockConfig(4, 4, 1), convnext.CNBlockConfig(4, None, 1)]
    model = convnext.ConvNeXt(blocks, layer_scale=0.5, num_classes=3)
    model = trainable(model, "features.0.1", "features.1.0.block.3", "features.2", "classifier")
    return Case(model=model.eval(), data=images(6, 3, 16), loss=CE)


@case
def vision_transformer():
    models = pytest.importorskip("torchvision.models")
    model = models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=4, mlp_dim=8,
        num_classes=3,
    )  # fmt: skip
    for part in (model.heads.head.weight, model.class_token, model.encoder.pos_embedding):
        nn.init.normal_(part)
    model = trainable(model, "class", "encoder.pos", "encoder.layers", "encoder.ln")
    return Case(model=model.eval(), data=images(6, 3, 8), loss=CE)


@case
def swin():
    models = pytest.importorskip("torchvision.models")
    model = models.SwinTransformer(
        patch_size=[2, 2], embed_dim=4, depths=[2], num_heads=[2], window_size=[2, 2], mlp_ratio=1,
        stochastic_depth_prob=0.0, num_classes=3,
    )  # fmt: skip
    # Shifted windows are masked; the table of relative positions is read by an index.
    model = trainable(model, "features.0.2", "features.1.1.attn", "features.1.0.mlp", "norm")
    nn.init.normal_(model.head.weight)
    return Case(model=model.eval(), data=images(6, 3, 8), loss=CE)


def timm_vit():
    timm = pytest.importorskip("timm")
    model = timm.models.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=4, depth=2, num_heads=2, mlp_ratio=1.0, num_classes=3
    )
    nn.init.normal_(model.head.weight)
    return trainable(model, "blocks.0", "blocks.1.attn", "norm")


@case
def timm_vision_transformer():
    return Case(model=timm_vit().eval(), data=images(6, 3, 8), loss=CE)


@case
def timm_grad_checkpointing():
    model = timm_vit().train()
    model.set_grad_checkpointing(True)

    def own(model, data, loss):
        model.set_grad_checkpointing(False)
        return loss(model(data[0]), data[1])

    return Case(model=model, data=images(6, 3, 8), loss=CE, own=own)


@case
def timm_efficientnet():
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_efficientnet", num_classes=3)
    data = images(4, 3, 32)
    model = trainable(warmed(model, data[0]), "bn1", "blocks.1.0.bn1.bias")
    return Case(model=model, data=data, loss=CE)
