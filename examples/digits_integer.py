"""A small image classifier, trained in floating point and run on integers alone: handwritten digits at 8 to 2 bits."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from kbit.fixedpoint import IntegerOnly, convert

torch.manual_seed(0)
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 16
train, test, train_labels, test_labels = train_test_split(images, labels, test_size=0.33, random_state=0, stratify=labels)

model = nn.Sequential(
    nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.AvgPool2d(2),
    nn.Flatten(), nn.Linear(192, 10),
)  # fmt: skip

optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.05)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=30 * 10)
for _ in range(30):
    for batch in torch.randperm(len(train)).chunk(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train[batch]), train_labels[batch]).backward()
        optimizer.step()
        schedule.step()
model.eval()


def percent(scores: torch.Tensor) -> float:
    return 100 * float((scores.argmax(-1) == test_labels).double().mean())


print(f"float32  {percent(model(test)):6.2f}% of {len(test)} digits")
for k in range(8, 1, -1):
    network = convert(model, train, k)
    x = network.input.quantize(test)
    with IntegerOnly():  # from here to the scores any operation on a float is an error
        scores = network(x)
    print(f"{k} bits   {percent(scores.q):6.2f}%")
