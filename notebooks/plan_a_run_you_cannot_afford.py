# %% [markdown]
# # Plan a run you cannot afford to try
#
# A model of 30 billion parameters, sequences of 65,536 tokens, 64 GPUs: does it fit, how long
# does a step take and why, which settings are better, what does it cost? The planner answers from
# counted operations and bytes and from data sheets of devices, without a device and without JAX.
# Its figures are predictions: what they rest on is stated, and none of these devices was measured
# for this page.

# %%
from dataclasses import replace
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
from IPython.display import Image

from seq1f1b_jax.config import Config, DataConfig, MeshConfig, ModelConfig, ScheduleConfig
from seq1f1b_jax.plan.draft import draft_of
from seq1f1b_jax.plan.draw import draw_estimate
from seq1f1b_jax.plan.estimate import Estimate
from seq1f1b_jax.plan.fill import fill_model
from seq1f1b_jax.plan.hardware import find_hardware
from seq1f1b_jax.plan.recipe import recipe_text
from seq1f1b_jax.plan.report import findings, report
from seq1f1b_jax.plan.search.find import search
from seq1f1b_jax.plan.search.space import Space

# %% [markdown]
# ## One configuration, explained
#
# The settings are those of `train.py`: 8 ranks of 8 devices that share every layer, 16 sequences
# per step, four chunks of each. Below are the bytes of every rank, the seconds of a step by what
# they go to, and 100 billion tokens at 2 per GPU hour. *Allocated* is what every device sets
# aside, since all run one program; the columns of the ranks are what they use of it.

# %%
hardware = find_hardware("h100-80g")
config = fill_model(
    Config(
        model=ModelConfig(family="gpt", preset="30b"),
        data=DataConfig(source="tokens.bin", seq_len=65536),
        mesh=MeshConfig(pipe=8, tensor=8, sequence_parallel=True),
        schedule=ScheduleConfig(num_microbatches=16, num_chunks=4),
    )
)
estimate = Estimate(draft_of(config, hardware), hardware)
print(report(estimate, tokens=100e9, price=2.0))

# %%
with TemporaryDirectory() as folder:
    draw_estimate(estimate, f"{folder}/ranks.png")
    picture = Image(f"{folder}/ranks.png")
picture

# %% [markdown]
# ## How many chunks?
#
# One setting at a time. With one chunk this is 1F1B, which needs a device of another size. Each
# doubling takes memory and bubble away, and gives something back to collectives and kernels of
# short chunks.

# %%
chunks = (1, 2, 4, 8, 16)
estimates = [
    Estimate(
        draft_of(replace(config, schedule=replace(config.schedule, num_chunks=c)), hardware),
        hardware,
    )
    for c in chunks
]
for c, each in zip(chunks, estimates):
    verdict = "fits" if each.fits else "does not fit"
    print(f"C={c:<2} {each.held / 1e9:6.1f} GB {verdict:>13}, {each.time.total:5.2f} s a step, "
          f"{each.tokens_per_second:6,.0f} tokens/s per device")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.bar(range(len(chunks)), [each.held / 1e9 for each in estimates], 0.6)
left.axhline(hardware.usable / 1e9, color="tab:red", linestyle="--", label="usable")
left.set_ylabel("GB on each device")
left.legend(loc="center right")
bottom = [0.0] * len(chunks)
terms = [each.time.terms() for each in estimates]
for name in terms[0]:
    seconds = [of[name] for of in terms]
    if max(seconds) > 0.01 * max(each.time.total for each in estimates):
        right.bar(range(len(chunks)), seconds, 0.6, bottom, label=name)
        bottom = [below + more for below, more in zip(bottom, seconds)]
right.set_ylabel("seconds of a step")
right.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
for axes in (left, right):
    axes.set_xticks(range(len(chunks)), chunks)
    axes.set_xlabel("C, chunks per sequence")
    axes.grid(axis="y", alpha=0.3)
plt.show()

# %% [markdown]
# ## Search
#
# All at once: meshes of 64 devices, schedules, chunks, recompute, host memory. Every
# configuration first gets a bound of its bytes and of its seconds, and only those that might win
# are simulated. The space is kept small here; without `space` it has tens of thousands of
# configurations, as `train.py plan` searches them.

# %%
space = Space(
    chunks=(2, 4, 8), schedules=(("seq1f1b", 1), ("seq-zb-h1", 1), ("seq1f1b-i", 2)),
    recompute=("none", "selective"), offload=(0.0,), partitions=("balanced",), sequences=(1,),
)
result = search(config, hardware, num_devices=64, space=space, top=5)
print(findings(result, f"64 x {hardware.name}"))

# %% [markdown]
# ## How many devices?
#
# The same run on more or fewer of them, and the best that the search finds on each: more devices
# shorten the days, and the price says what that costs. A step keeps its 16 sequences, so with
# more devices there are fewer for each pipeline, and bubble and collectives grow.

# %%
counts, tokens, price = (32, 64, 128, 256), 100e9, 2.0
best = {}
for count in counts:
    found = search(config, hardware, num_devices=count, space=space, top=1).best
    if found:
        best[count] = found[0].estimate
        days = tokens / best[count].tokens_per_second / count / 86400
        cost = best[count].price(tokens, price)
        print(f"{count:4} devices: {days:5.1f} days, {cost:,.0f} at {price:g} per device hour, "
              f"{best[count].utilisation():.1%} of the peak")
    else:
        print(f"{count:4} devices: nothing fits")

# %%
figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
days = [tokens / each.tokens_per_second / count / 86400 for count, each in best.items()]
costs = [each.price(tokens, price) / 1e3 for each in best.values()]
axes.plot(days, costs, "o-")
for count, at in zip(best, zip(days, costs)):
    axes.annotate(f"{count} devices", at, xytext=(6, 6), textcoords="offset points")
axes.set(xlabel="days for 100 billion tokens", ylabel="price, thousands")
axes.set(xlim=(0, 1.25 * max(days)), ylim=(0, 1.2 * max(costs)))
axes.grid(alpha=0.3)
plt.show()

# %% [markdown]
# ## Start it
#
# What was found is a recipe: save it as a file and give it to `train.py --config`. On the command
# line all of this is `python train.py plan --help`.

# %%
chosen = result.best[0].estimate
recipe = replace(chosen.draft.config, model=ModelConfig(family="gpt", preset="30b"))
print(recipe_text(recipe, [f"{chosen.held / 1e9:.1f} GB, {chosen.time.total:.3g} s, predicted"]))
