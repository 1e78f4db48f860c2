# ruff: noqa: E402
# A notebook imports where it needs a thing.

# %% [markdown]
# # Chest X-rays: classify, explain, and check the explanation
#
# PyHealth's tutorial on classifying chest X-rays and explaining the result, cell by cell in its order, with this
# package: load data, define the task, build a model, train, evaluate, gradient saliency, layer-wise relevance
# propagation (LRP). It runs offline on synthetic radiographs, where the evidence's place is known, or on the COVID-19
# Radiography Database where its folder is given.

# %% [markdown]
# ## Environment setup
#
# `pip install lrp-plugin[cxr]`. As a script: `python examples/cxr_walkthrough.py [--quick] [--data FOLDER]
# [--model resnet18] [--weights DEFAULT]`. As a notebook: set `CXR_DATA`, `CXR_QUICK=1`, `CXR_MODEL`, `CXR_WEIGHTS` in
# the environment instead.

# %%
import argparse
import os

parser = argparse.ArgumentParser(description="The chest X-ray walkthrough.")
parser.add_argument("--data", default=os.environ.get("CXR_DATA"), help="COVID-19_Radiography_Dataset; else synthetic")
parser.add_argument("--weights", default=os.environ.get("CXR_WEIGHTS"), help="torchvision's name, such as DEFAULT")
parser.add_argument(
    "--quick", action="store_true", default=os.environ.get("CXR_QUICK") == "1", help="few, small pictures"
)
parser.add_argument("--model", default=os.environ.get("CXR_MODEL"), help="any of torchvision's classifiers")
settings = parser.parse_known_args()[0]

# %% [markdown]
# ## Data
#
# The real data: [COVID-19 Radiography Database](https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database),
# 21,165 pictures of four classes with lung masks; nothing here downloads it.

# %%
print(sorted(os.listdir(settings.data)) if settings.data else "no folder given: synthetic radiographs")

# %% [markdown]
# ## Step 1. Load data

# %%
from lrp_plugin.pyhealth import COVID19CXRDataset, SyntheticCXR

if settings.data:
    base_dataset = COVID19CXRDataset(settings.data)
else:
    base_dataset = SyntheticCXR(n=400 if settings.quick else 2000, seed=0, size=64 if settings.quick else 128)

# %%
_ = base_dataset.stats()

# %%
print(base_dataset.get_patient("0").get_events())

# %% [markdown]
# ## Step 2. Define the task
#
# The database names no patients, so each picture counts as one of their own; a split by picture may put two pictures
# of one person on both sides.

# %%
print(base_dataset.default_task)

# %%
sample_dataset = base_dataset.set_task()

# %%
print({name: getattr(value, "shape", value) for name, value in sample_dataset[0].items()})

# %%
print(sample_dataset.input_schema)

# %%
print(sample_dataset.output_schema)

# %%
label2id = sample_dataset.output_processors["disease"].label_vocab
id2label = {v: k for k, v in label2id.items()}
print(label2id)

# %%
from collections import defaultdict

import matplotlib.pyplot as plt

# `labels` knows them without reading a picture.
label_counts = defaultdict(int)
for label in sample_dataset.labels:
    label_counts[id2label[label]] += 1
print(dict(label_counts))
plt.bar(label_counts.keys(), label_counts.values())
plt.show()

# %%
import random

random.seed(0)
label_to_idxs = defaultdict(list)
for idx, label in enumerate(sample_dataset.labels):
    label_to_idxs[label].append(idx)

fig, axs = plt.subplots(1, len(label_to_idxs), figsize=(15, 3.6))
for ax, label in zip(axs, sorted(label_to_idxs)):
    ax.set_title(id2label[label], fontsize=15)
    idx = random.choice(label_to_idxs[label])
    sample = sample_dataset[idx]
    image = sample["image"][0]
    ax.imshow(image, cmap="gray")
    ax.axis("off")
plt.show()

# %%
from lrp_plugin.pyhealth import split_by_sample

train_dataset, val_dataset, test_dataset = split_by_sample(dataset=sample_dataset, ratios=[0.7, 0.1, 0.2])
print(len(train_dataset), len(val_dataset), len(test_dataset))

# %%
from lrp_plugin.pyhealth import get_dataloader

train_dataloader = get_dataloader(train_dataset, batch_size=32, shuffle=True)
val_dataloader = get_dataloader(val_dataset, batch_size=32, shuffle=False)
test_dataloader = get_dataloader(test_dataset, batch_size=32, shuffle=False)

# %% [markdown]
# ## Step 3. Define the model
#
# Any torchvision classifier by name. Grey is repeated to RGB, pretrained weights get their normalization, and pictures
# of a size the network cannot take are resized, all inside the model. On real data the tutorial's ResNet-18; on the
# synthetic pictures a small residual network, which learns them in a minute without a GPU.

# %%
import torch

from lrp_plugin.pyhealth import TorchvisionModel

torch.manual_seed(0)
resnet = TorchvisionModel(
    dataset=sample_dataset,
    model_name=settings.model or ("resnet18" if settings.data else "reference_cnn"),
    model_config={"weights": settings.weights},
)
print(resnet)

# %%
vit = TorchvisionModel(
    dataset=sample_dataset,
    model_name="vit_b_16",
    model_config={"weights": settings.weights},
)
# It takes 224 pixels only; the pictures are resized for it.
with torch.no_grad():
    print({name: value.shape for name, value in vit.eval()(image=sample_dataset[0]["image"][None]).items()})
del vit

# %% [markdown]
# ## Step 4. Training

# %%
from lrp_plugin.pyhealth import Trainer

resnet_trainer = Trainer(model=resnet, enable_logging=False)

# %% [markdown]
# Before training, the model guesses:

# %%
print(resnet_trainer.evaluate(test_dataloader))

# %%
history = resnet_trainer.train(
    train_dataloader=train_dataloader,
    val_dataloader=val_dataloader,
    epochs=1 if settings.data else 4,
    optimizer_params={"lr": 1e-3 if settings.data else 3e-3},
    monitor="accuracy",
)
print(history.to_csv())

# %% [markdown]
# ## Step 5. Evaluation

# %%
print(resnet_trainer.evaluate(test_dataloader))

# %%
y_true, y_prob, loss = resnet_trainer.inference(test_dataloader)
y_pred = y_prob.argmax(axis=1)
print(f"{(y_true == y_pred).mean():.3f} of {len(y_true)} test pictures are right, loss {loss:.3f}")

# %%
from torchmetrics.functional.classification import multiclass_confusion_matrix

from lrp_plugin.cxr import plot_confusion_matrix

cf_matrix = multiclass_confusion_matrix(torch.from_numpy(y_pred), torch.from_numpy(y_true), len(id2label))
fig, ax = plt.subplots(layout="constrained")
plot_confusion_matrix(cf_matrix, [id2label[i] for i in range(len(id2label))], ax=ax)
plt.show()

# %% [markdown]
# # 6. Gradient saliency
#
# How fast the class's logit changes with each pixel. (PyHealth takes the probability's gradient, which vanishes where
# the model is sure.) The input needs no `requires_grad_`.

# %%
import itertools

from lrp_plugin.pyhealth import BasicGradientSaliencyMaps, SaliencyVisualizer

# Create a batch with only COVID samples
covid_label = label2id["COVID"]
covid_samples = [sample_dataset[i] for i in itertools.islice(label_to_idxs[covid_label], 8)]
batch_size = len(covid_samples)
covid_batch = {
    "image": torch.stack([sample["image"] for sample in covid_samples]),
    "disease": torch.stack([sample["disease"] for sample in covid_samples]),
}
print(f"Created COVID batch with {batch_size} samples")

# Initialize saliency maps with batch input only
saliency_maps = BasicGradientSaliencyMaps(resnet, input_batch=covid_batch)

# Initialize the visualization module
visualizer = SaliencyVisualizer(default_cmap="hot", default_alpha=0.6, figure_size=(9, 5))

# %%
# Show saliency map for the first image in the batch
image_0 = covid_batch["image"][0]
saliency_result_0 = saliency_maps.attribute(image=image_0.unsqueeze(0), disease=covid_batch["disease"][0:1])
_ = visualizer.plot_saliency_overlay(
    plt,
    image=image_0,
    saliency=saliency_result_0["image"][0],
    title=f"Gradient saliency, {id2label[covid_label]} (sample 0)",
)

# Show saliency map for another image in the batch
image_3 = covid_batch["image"][3]
saliency_result_3 = saliency_maps.attribute(image=image_3.unsqueeze(0), disease=covid_batch["disease"][3:4])
_ = visualizer.plot_saliency_overlay(
    plt,
    image=image_3,
    saliency=saliency_result_3["image"][0],
    title=f"Gradient saliency, {id2label[covid_label]} (sample 3)",
)

# %% [markdown]
# # 7. Layer-wise relevance propagation (LRP)
#
# LRP shares the logit out among the pixels, layer by layer. What does not reach the pixels, biases and the stabilizer
# epsilon took, and the conservation report says which layer took how much.

# %%
from lrp_plugin.pyhealth import UnifiedLRP

lrp = UnifiedLRP(
    model=resnet.model,  # the underlying network
    rule="epsilon",
    epsilon=0.1,
    validate_conservation=True,
)

# Compute LRP attributions for the first COVID sample
covid_image = covid_batch["image"][0:1]

# Convert grayscale to RGB (the model would do it, too)
if covid_image.shape[1] == 1:
    covid_image = covid_image.repeat(1, 3, 1, 1)

# Move to the same device as the model
device = next(resnet.model.parameters()).device
covid_image = covid_image.to(device)

# Forward pass to get prediction
with torch.no_grad():
    output = resnet.model(covid_image)
    predicted_class = output.argmax(dim=1).item()

# Compute LRP attributions
lrp_attributions = lrp.attribute(inputs={"x": covid_image}, target_class=predicted_class)

print("LRP attributions computed")
print(f"  Input shape: {tuple(covid_image.shape)}")
print(f"  Attribution shape: {tuple(lrp_attributions['x'].shape)}")
print(f"  Predicted class: {id2label[predicted_class]}")
print(f"  Total relevance: {lrp_attributions['x'].sum().item():.4f}")
print(f"  Explained logit: {output[0, predicted_class].item():.4f}")

# %%
# Where the rest is: input + bias + stabilizer + ... = output, to rounding.
print({name: value for name, value in lrp.get_conservation_summary().items() if value != [0.0]})

# %% [markdown]
# ## Visualizing LRP results
#
# The three channels' maps differ even for a grey picture (their weights do), so they are summed, with their sign: red
# speaks for the class, blue against it.

# %%
relevance_map = lrp_attributions["x"].squeeze(0)
_ = visualizer.plot_saliency_overlay(
    plt,
    image=covid_batch["image"][0],
    saliency=relevance_map,
    title=f"LRP, {id2label[predicted_class]} (epsilon rule)",
)

# Also show gradient saliency for comparison
saliency_comparison = saliency_maps.attribute(image=covid_batch["image"][0:1], disease=covid_batch["disease"][0:1])
_ = visualizer.plot_saliency_overlay(
    plt,
    image=covid_batch["image"][0],
    saliency=saliency_comparison["image"][0],
    title=f"Gradient saliency (for comparison), {id2label[predicted_class]}",
)

# %% [markdown]
# ## Comparing LRP rules
#
# **Epsilon** (`rule="epsilon"`): contributions of both signs count; epsilon takes what weak units would pass on.
# **Alpha-beta** (`rule="alphabeta"`): positive contributions get alpha, negative ones beta = alpha - 1, of it.
#
# Both are conserved layer by layer: whatever is missing is booked as bias or stabilizer; a larger epsilon takes more.

# %%
print("LRP with epsilon rule (epsilon = 0.1)")
_ = visualizer.plot_saliency_overlay(
    plt,
    image=covid_batch["image"][0],
    saliency=relevance_map,
    title=f"LRP epsilon rule, {id2label[predicted_class]}",
)

print("Computing LRP with alpha-beta rule (alpha = 2, beta = 1)...")
lrp_alphabeta = UnifiedLRP(model=resnet.model, rule="alphabeta", alpha=2.0, beta=1.0, validate_conservation=True)

alphabeta_attributions = lrp_alphabeta.attribute(inputs={"x": covid_image}, target_class=predicted_class)

alphabeta_relevance = alphabeta_attributions["x"].squeeze(0)
_ = visualizer.plot_saliency_overlay(
    plt,
    image=covid_batch["image"][0],
    saliency=alphabeta_relevance,
    title=f"LRP alpha-beta rule (alpha = 2, beta = 1), {id2label[predicted_class]}",
)

print("Results:")
for name, method in (("epsilon", lrp), ("alpha-beta", lrp_alphabeta)):
    account = method.get_conservation_summary()
    took = {column: round(account[column][0], 4) for column in ("bias", "stabilizer", "no_receiver")}
    print(f"  {name}: logit {account['output'][0]:.4f} = input {account['input'][0]:.4f} + {took}")
    print(f"    largest error of a layer: {account['max_error_pct']:.2g} %")

# %% [markdown]
# ### Side by side

# %%
attributions_dict = {
    "Gradient saliency": saliency_comparison["image"][0],
    "LRP epsilon (0.1)": relevance_map,
    "LRP alpha-beta (2, 1)": alphabeta_relevance,
}

_ = visualizer.plot_multiple_attributions(
    plt,
    image=covid_batch["image"][0],
    attributions=attributions_dict,
    logit=output[0, predicted_class].item(),
    totals=["LRP epsilon (0.1)", "LRP alpha-beta (2, 1)"],
)

# %% [markdown]
# ## What has a rule
#
# Layers are seen as the operations they run, in the order they run: skip connections, attention and functional calls
# too. A handler of one's own (`LRPHandlerRegistry.register`) comes before the built-in rules.

# %%
from lrp_plugin.pyhealth import create_default_registry

handlers = create_default_registry()
print(f"{len(handlers)} operations have a rule: {', '.join(handlers.list_handlers()[:12])}, ...")

# %%
# Apply LRP to multiple samples from the batch
fig, axes = plt.subplots(2, 3, figsize=(18, 12))
lrp.validate_conservation = False

for idx in range(3):
    sample_image = covid_batch["image"][idx : idx + 1]

    # Convert grayscale to RGB for ResNet
    sample_image_rgb = sample_image.repeat(1, 3, 1, 1) if sample_image.shape[1] == 1 else sample_image
    sample_image_rgb = sample_image_rgb.to(device)

    # Get prediction
    with torch.no_grad():
        output = resnet.model(sample_image_rgb)
        pred_class = output.argmax(dim=1).item()

    # Compute LRP
    sample_lrp = lrp.attribute(inputs={"x": sample_image_rgb}, target_class=pred_class)

    # Plot original image (grayscale)
    axes[0, idx].imshow(sample_image.squeeze().cpu().numpy(), cmap="gray")
    axes[0, idx].set_title(f"Sample {idx}: {id2label[pred_class]}", fontsize=12, fontweight="bold")
    axes[0, idx].axis("off")

    # Plot LRP heatmap: channels summed, colours symmetric about zero
    relevance = sample_lrp["x"].squeeze(0).sum(0).cpu()
    limit = relevance.abs().max()
    axes[1, idx].imshow(relevance.numpy(), cmap="seismic", vmin=-limit, vmax=limit)
    axes[1, idx].set_title("LRP heatmap (epsilon = 0.1)", fontsize=10)
    axes[1, idx].axis("off")

plt.tight_layout()
plt.show()

# %% [markdown]
# ## Does it look at the lungs?
#
# The share of positive relevance inside a mask says more than a picture. Chance is the mask's area.

# %%
from lrp_plugin.evidence import mask_area, mask_share

masks = {
    name: torch.stack([sample[name] for sample in covid_samples]).as_subclass(torch.Tensor)
    for name in ("lungs", "evidence")
    if name in covid_samples[0]
}
images = covid_batch["image"].repeat(1, 3, 1, 1) if covid_batch["image"].shape[1] == 1 else covid_batch["image"]
stored = saliency_maps.get_gradient_saliency_maps()[0]["saliency"].cpu()
maps = {
    "Gradient saliency": stored,
    "LRP epsilon (0.1)": lrp.attribute(inputs={"x": images}, target_class=covid_label)["x"].cpu(),
    "LRP epsilon_plus_flat": UnifiedLRP(resnet.model, composite="epsilon_plus_flat", validate_conservation=False)
    .attribute(inputs={"x": images}, target_class=covid_label)["x"]
    .cpu(),
}
for name, mask in masks.items():
    print(f"positive relevance inside {name} (chance {100 * mask_area(mask).mean():.1f} %):")
    for method, values in maps.items():
        print(f"  {method}: {100 * mask_share(values, mask).nanmean():.1f} %")

# %% [markdown]
# ## Key takeaways
#
# **Gradient saliency** says how fast the logit changes with a pixel. One backward pass, any differentiable model;
# noisy, and its values add up to nothing.
#
# **LRP** says how much of the logit each pixel accounts for. It adds up: what the pixels do not have, the report books
# as bias or stabilizer. One backward pass too. The rule matters: epsilon keeps both signs and every fluctuation;
# alpha-beta and the composites (`composite="epsilon_plus_flat"`) are smoother.
#
# Measure, with masks where there are some, before trusting either.
