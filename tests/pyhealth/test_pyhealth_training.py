"""PyHealth's data, model and trainer names, and its notebook's cells as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lrp_plugin import pyhealth
from lrp_plugin.pyhealth import SyntheticCXR, TorchvisionModel, Trainer, UnifiedLRP, get_dataloader, split_by_sample


@pytest.fixture(scope="module")
def samples() -> object:
    return SyntheticCXR(n=24, size=32).set_task()


def test_every_name_is_there() -> None:
    assert all(getattr(pyhealth, name) is not None for name in pyhealth.__all__)
    with pytest.raises(AttributeError, match="no_such"):
        _ = pyhealth.no_such


def test_explaining_needs_nothing_of_the_training_module() -> None:
    code = (
        "import sys; from lrp_plugin.pyhealth import UnifiedLRP, SaliencyVisualizer, BasicGradientSaliencyMaps; "
        "sys.exit('lrp_plugin.cxr' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_a_model_returns_logit_probability_and_with_labels_loss(samples: object) -> None:
    model = TorchvisionModel(samples, "resnet18", {"weights": None}).eval()
    batch = next(iter(get_dataloader(samples, batch_size=4)))
    result = model(**batch)
    assert set(result) == {"logit", "y_prob", "loss", "y_true"}
    assert result["logit"].shape == (4, 4)
    assert torch.allclose(result["y_prob"].sum(1), torch.ones(4))
    picked = result["y_prob"][range(4), batch["disease"]]
    assert result["loss"].item() == pytest.approx(-picked.log().mean().item(), rel=1e-5)
    assert set(model(image=batch["image"])) == {"logit", "y_prob"}
    with pytest.raises(ValueError, match="image=tensor"):
        model(picture=batch["image"])


def test_a_vision_transformer_takes_pictures_of_any_size(samples: object) -> None:
    model = TorchvisionModel(samples, "vit_b_16").eval()
    assert model(image=torch.rand(1, 1, 299, 299))["logit"].shape == (1, 4)


def test_the_network_takes_x_grey_or_rgb_and_explains_the_grey_picture(samples: object) -> None:
    network = TorchvisionModel(samples, "resnet18").eval().model
    grey = torch.rand(2, 1, 32, 32)
    assert torch.allclose(network(grey), network(x=grey.repeat(1, 3, 1, 1)), atol=1e-5)
    lrp = UnifiedLRP(network, epsilon=0.1)
    on_grey = lrp.attribute({"x": grey}, 0)["x"]
    on_rgb = lrp.attribute({"x": grey.repeat(1, 3, 1, 1)}, 0)["x"]
    assert on_grey.shape == grey.shape
    assert torch.allclose(on_grey[:, 0], on_rgb.sum(1), atol=1e-6)


def test_repr_shows_the_layers(samples: object) -> None:
    assert "(layer1)" in repr(TorchvisionModel(samples, "resnet18"))


def test_training_evaluating_and_applying(
    samples: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = TorchvisionModel(samples, "reference_cnn")
    loaders = [get_dataloader(part, 8, shuffle=k == 0) for k, part in enumerate(split_by_sample(samples))]
    trainer = Trainer(model, enable_logging=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    history = trainer.train(*loaders, epochs=2, monitor="accuracy", optimizer_params={"lr": 1e-3})
    assert len(history.rows) == 2
    assert history.best_epoch is not None
    assert "test_accuracy" in history.rows[-1]
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    figures = trainer.evaluate(loaders[2])
    assert set(figures) == {"accuracy", "f1_macro", "f1_micro", "loss"}
    y_true, y_prob, loss = trainer.inference(loaders[2])
    assert (y_prob.argmax(axis=1) == y_true).mean() == pytest.approx(figures["accuracy"])
    assert loss == pytest.approx(figures["loss"])
    assert y_prob.shape == (len(y_true), 4)
    assert not list(tmp_path.iterdir())  # nothing is written unless an output path is given
    assert capfd.readouterr().err == ""  # no bars


def test_output_and_checkpoint_paths_are_used(samples: object, tmp_path: Path) -> None:
    model = TorchvisionModel(samples, "reference_cnn")
    loader = get_dataloader(samples, 8)
    trainer = Trainer(model, metrics=["ece"], output_path=tmp_path, exp_name="run", enable_logging=False)
    trainer.train(loader, loader, epochs=1, monitor="ece")
    assert set(trainer.evaluate(loader)) == {"loss", "ece"}
    best = tmp_path / "run" / "best.safetensors"
    again = Trainer(TorchvisionModel(samples, "reference_cnn"), checkpoint_path=best, enable_logging=False)
    assert np.allclose(again.inference(loader)[1], trainer.inference(loader)[1])
    with pytest.raises(ValueError, match="legal is 'lr'"):
        again.train(loader, optimizer_params={"momentum": 0.9})


# The notebook's cells 6 and 7 as they stand upstream; only the imports are changed.
SALIENCY_CELL = """
covid_label = label2id['COVID']
covid_samples = [sample for sample in sample_dataset.samples if sample['disease'].item() == covid_label]
batch_size = min(32, len(covid_samples))
covid_batch = {
    'image': torch.stack([covid_samples[i]['image'] for i in range(batch_size)]),
    'disease': torch.stack([covid_samples[i]['disease'] for i in range(batch_size)])
}
saliency_maps = BasicGradientSaliencyMaps(
    resnet,
    input_batch=covid_batch
)
visualizer = SaliencyVisualizer(default_cmap='hot', default_alpha=0.6, figure_size=(15, 7))
image_0 = covid_batch['image'][0]
saliency_result_0 = saliency_maps.attribute(image=image_0.unsqueeze(0), disease=covid_batch['disease'][0:1])
visualizer.plot_saliency_overlay(
    plt,
    image=image_0,
    saliency=saliency_result_0['image'][0],
    title=f"Gradient Saliency - {id2label[covid_label]} (Sample 0)"
)
"""
LRP_CELL = """
lrp = UnifiedLRP(
    model=resnet.model,  # Use the underlying PyTorch model
    rule='epsilon',
    epsilon=0.1,  # Larger epsilon for numerical stability
    validate_conservation=False
)
covid_image = covid_batch['image'][0:1]
if covid_image.shape[1] == 1:
    covid_image = covid_image.repeat(1, 3, 1, 1)
device = next(resnet.model.parameters()).device
covid_image = covid_image.to(device)
with torch.no_grad():
    output = resnet.model(covid_image)
    predicted_class = output.argmax(dim=1).item()
lrp_attributions = lrp.attribute(
    inputs={'x': covid_image},
    target_class=predicted_class
)
relevance_map = lrp_attributions['x'].squeeze()
visualizer.plot_saliency_overlay(
    plt,
    image=covid_batch['image'][0],  # Original grayscale image
    saliency=relevance_map[0] if relevance_map.dim() == 3 else relevance_map,  # First channel of attribution
    title=f"LRP Relevance Map - {id2label[predicted_class]} (Epsilon Rule)",
)
lrp_alphabeta = UnifiedLRP(
    model=resnet.model,
    rule='alphabeta',
    alpha=2.0,
    beta=1.0,
    validate_conservation=False
)
alphabeta_attributions = lrp_alphabeta.attribute(
    inputs={'x': covid_image},
    target_class=predicted_class
)
alphabeta_relevance = alphabeta_attributions['x'].squeeze()
attributions_dict = {
    'Gradient Saliency': saliency_result_0['image'][0],
    'LRP Epsilon': relevance_map[0] if relevance_map.dim() == 3 else relevance_map,
    'LRP Alpha-Beta': alphabeta_relevance[0] if alphabeta_relevance.dim() == 3 else alphabeta_relevance
}
visualizer.plot_multiple_attributions(
    plt,
    image=covid_batch['image'][0],
    attributions=attributions_dict
)
"""


def test_the_seeds_cells_run_with_only_their_imports_changed(samples: object) -> None:
    names: dict[str, object] = {"sample_dataset": samples, "torch": torch, "plt": plt}
    exec("from lrp_plugin.pyhealth import *", names)
    names["label2id"] = samples.output_processors["disease"].label_vocab  # type: ignore[attr-defined]
    names["id2label"] = {v: k for k, v in names["label2id"].items()}  # type: ignore[attr-defined]
    names["resnet"] = TorchvisionModel(dataset=samples, model_name="resnet18", model_config={"weights": None}).eval()
    exec(SALIENCY_CELL, names)
    exec(LRP_CELL, names)
    relevance = names["lrp_attributions"]["x"]  # type: ignore[index]
    assert relevance.shape == (1, 3, 32, 32)
    assert torch.isfinite(relevance).all()
    assert len(plt.get_fignums()) == 3
    plt.close("all")
