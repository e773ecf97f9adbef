"""Only Python: text in memory, a score of her own, a loss of her own, figures as a table."""

import torch
from transformers import TrainerCallback

import secateur

texts = [f"{number} squared is {number * number}, and its half is {number / 2}." for number in range(200)]


def fluctuation(layer, part, statistics):
    return statistics.by_unit(statistics.variance * statistics.output.double().square().sum(0))


def smoothed(outputs, batch):
    logits, labels = outputs.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.1)


class Watch(TrainerCallback):
    def __init__(self):
        self.losses = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.losses += [logs["loss"]] if "loss" in logs else []


model, tokenizer = secateur.load("model", dtype="float32", device="cpu")
before = secateur.evaluate(model, tokenizer, data=[texts], name="uncut", windows=4, seqlen=32, speed=False)
small = {"samples": 8, "seqlen": 32}
cut = secateur.prune(model, tokenizer, ratio=0.2, calibration=texts, importance=fluctuation, own_text=0, **small)
watch = Watch()
trained = secateur.recover(
    model, tokenizer, data=texts, val_size=0, merge=True, loss=smoothed, callbacks=[watch], **small
)
after = secateur.evaluate(trained.model, tokenizer, data=[texts], name="cut", windows=4, seqlen=32, speed=False)
table = secateur.compare([before, after]).to_pandas()
figure = cut.plot()
secateur.save(trained.model, tokenizer, "out/cut", extras=cut.files())
