"""Kubernetes: what train.py is called with, what becomes of its statuses, manifests that are valid.

The published schemas are those of the package kubeflow-trainer-api (JobSet is part of them); the
test that asks them is skipped without it, and the others know the fields that decide a run.
"""

from pathlib import Path

import pytest
import yaml

from seq1f1b_jax.cli import parse
from seq1f1b_jax.config.checks import validate
from seq1f1b_jax.distributed import Processes, find_processes
from seq1f1b_jax.distributed.exits import STOPPED

ROOT = Path(__file__).parents[2]
RECIPES, LAUNCH = ROOT / "mesh_configs", ROOT / "launch"


def documents(name):
    return list(yaml.safe_load_all((LAUNCH / name).read_text()))


@pytest.fixture
def jobset():
    [document] = documents("jobset.yaml")
    return document


def set_of(name):
    """The JobSet's specification, which one file has and the other one's runtime."""
    spec = documents(name)[0]["spec"]
    return spec["template"]["spec"] if name == "trainjob.yaml" else spec


def job_of(name):
    (replicated,) = set_of(name)["replicatedJobs"]
    return replicated["template"]["spec"]


def container_of(name):
    (container,) = job_of(name)["template"]["spec"]["containers"]
    return container


def config_of(command, arguments):
    """What train.py makes of the arguments in pod 1."""
    assert all(isinstance(word, str) for word in command + arguments)
    assert command == ["python", "-u", "train.py"]
    words = [word.replace("$(PROCESS_ID)", "1") for word in arguments]
    config = parse(words, recipes=RECIPES).config
    validate(config)
    assert config.distributed.stopped_status == STOPPED
    return config


def test_jobset_arguments_are_those_of_the_command_line(jobset):
    job, container = job_of("jobset.yaml"), container_of("jobset.yaml")
    assert [entry["name"] for entry in container["env"]] == ["PROCESS_ID"]
    index = container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    config = config_of(container["command"], container["args"])
    found = find_processes(config.distributed, {})
    first = f"{jobset['metadata']['name']}-{jobset['spec']['replicatedJobs'][0]['name']}-0-0"
    service = jobset["spec"]["network"]["subdomain"]
    assert found == Processes(2, 1, f"{first}.{service}:61440")
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == 1
    assert job["completions"] == job["parallelism"] == found.count
    assert config.train.output_dir.startswith(container["volumeMounts"][0]["mountPath"])


def test_trainjob_arguments_are_those_of_the_command_line():
    runtime, job = documents("trainjob.yaml")
    trainer, container = job["spec"]["trainer"], container_of("trainjob.yaml")
    config = config_of(trainer["command"], trainer["args"])
    assert config.mesh.data == trainer["numNodes"]
    assert config.train.output_dir.startswith(container["volumeMounts"][0]["mountPath"])
    reference = job["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) == (runtime["kind"], runtime["metadata"]["name"])
    assert f"{reference['apiGroup']}/v1alpha1" == runtime["apiVersion"] == job["apiVersion"]
    assert runtime["spec"]["mlPolicy"]["jax"] == {}  # whose plugin sets the JAX_* variables


def test_trainjob_has_the_names_by_which_the_runtime_is_filled_in():
    """Kubeflow Trainer looks for the step's label, and in its job for the container `node`."""
    (replicated,) = set_of("trainjob.yaml")["replicatedJobs"]
    labels = replicated["template"]["metadata"]["labels"]
    assert labels == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert replicated["name"] == container_of("trainjob.yaml")["name"] == "node"


@pytest.mark.parametrize("name", ["jobset.yaml", "trainjob.yaml"])
def test_a_set_starts_again_after_all_but_bad_input(name):
    job, policy = job_of(name), set_of(name)["failurePolicy"]
    assert policy["maxRestarts"] > 0
    rule = {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    assert policy["rules"] == [rule]
    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule["onExitCodes"]
        assert (codes["containerName"], codes["operator"]) == (container_of(name)["name"], "In")
        actions |= dict.fromkeys(codes["values"], rule["action"])
    assert actions == {2: "FailJob", 75: "Count", 76: "Count", 77: "Count"}
    assert job["backoffLimit"] == 0 and job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy wants it
    assert pod["shareProcessNamespace"]  # process 1 is deaf to SIGTERM


@pytest.mark.parametrize("name", ["jobset.yaml", "trainjob.yaml"])
def test_manifests_have_the_fields_of_their_published_schemas(name):
    models = pytest.importorskip(
        "kubeflow_trainer_api.models", reason="needs pip install kubeflow-trainer-api"
    )
    kinds = {
        "JobSet": models.JobsetV1alpha2JobSet, "TrainJob": models.TrainerV1alpha1TrainJob,
        "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime,
    }  # fmt: skip
    for document in documents(name):
        read = kinds[document["kind"]].from_dict(document).to_dict()
        assert lost(document, read) == []  # a model drops what its schema does not know


def lost(given, read, path=""):
    """Paths of what one has and the other has not."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [p for key in given for p in lost(given[key], read.get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        pairs = enumerate(zip(given, read, strict=True))
        return [p for index, (a, b) in pairs for p in lost(a, b, f"{path}[{index}]")]
    return [] if given == read else [path]


def test_what_a_schema_does_not_know_is_found():
    assert lost({"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1}]}) == [".a[0].c"]


def test_launch_readme_names_the_files_and_settings():
    text = (LAUNCH / "README.md").read_text()
    files = [path.name for path in LAUNCH.iterdir() if path.suffix in (".sbatch", ".yaml", ".py")]
    assert len(files) == 4
    for name in (*files, "--distributed.coordinator", "--distributed.stopped_status"):
        assert name in text
