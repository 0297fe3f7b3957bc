"""Training in several processes: real ones, over gloo, started as users start them."""

import json

import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM
from checkpoints import CODE_FILES, NO_DROPOUT, POOLER, ROOT, assert_modules, differing, distance, todays, took
from programs import CHILDREN, run_python
from trainers import accumulates_exactly, step_gradients
from transformers import AutoModelForMaskedLM


@pytest.fixture(scope="module")
def processes(pooled, tmp_path_factory):
    """`python -m torch.distributed.run --nproc_per_node 2`: the folder, and what each of the two processes saw."""
    folder = tmp_path_factory.mktemp("torchrun")
    launch = "import runpy; runpy.run_module('torch.distributed.run', run_name='__main__', alter_sys=True)"
    options = ("--standalone", "--nproc_per_node", "2", CHILDREN / "ddp_and_fsdp.py")
    for _ in range(4):  # the launcher picks a free port, and another test may take it before it is bound (seen twice)
        done = run_python(launch, folder, *options, pooled, folder, PYTHONPATH=str(ROOT / "tests"))
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(2)]


def seen(processes, name):
    """What the two processes saw; premise: both hold the same model."""
    first, second = (rank[name] for rank in processes[1])
    assert first["steps"] == second["steps"]
    assert first.get("sum") == second.get("sum")
    return first, second


@pytest.mark.versions
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_ddp_trains_without_find_unused_parameters_and_the_pooler_stays(processes, sparse):
    for rank in seen(processes, f"mlm, sparse={sparse}"):
        assert rank["steps"] == 5
        assert len(rank["changed"]) > 40, "it trained"
        assert not {*POOLER} & {*rank["changed"]}


@pytest.mark.versions
def test_ddp_trains_anchored_without_find_unused_parameters(processes):
    plain = seen(processes, "mlm, sparse=False")
    for rank, alone in zip(seen(processes, "anchored"), plain, strict=True):
        assert rank["steps"] == 5
        assert not {*POOLER} & {*rank["changed"]}
        assert rank["losses"][0] > alone["losses"][0], "premise: the pooler's term is in it"
    assert seen(processes, "anchored")[1]["losses"][2] == 0


@pytest.mark.versions
def test_ddp_survives_a_rank_with_nothing_to_predict(processes):
    losses = [rank["losses"] for rank in seen(processes, "mlm, sparse=True")]
    assert losses[1][2] == 0
    assert losses[0][2] > 1
    assert all(loss > 1 for rank in losses for loss in rank[3:]), "no NaN after it"


@pytest.mark.versions
def test_ddp_with_sparse_prediction_trains_the_same_model(processes):
    dense, sparse = (torch.load(processes[0] / f"ddp-{flag}.pt", weights_only=True) for flag in (False, True))
    for name in dense:
        # Five steps whose matrix products had other numbers of rows.
        torch.testing.assert_close(sparse[name], dense[name], rtol=1e-4, atol=1e-5)


def test_a_thawed_pooler_with_a_loss_of_its_own_trains_under_plain_ddp(processes):
    for rank in seen(processes, "thawed, pooler in the loss, find_unused=False"):
        assert rank["steps"] == 5
        assert {*rank["changed"]} >= {*POOLER}


@pytest.mark.parametrize(
    "name",
    ["thawed, mlm alone, find_unused=False", "mlm, trainable pooler", "pooler_output, MLM head trainable"],
)
def test_what_is_trainable_and_gets_no_gradient_stops_without_find_unused_parameters(name, processes):
    """The reason for freezing it. MLM training goes through AutoModelForMaskedLM."""
    for rank in seen(processes, name):
        assert rank["steps"] == 1
        assert "Expected to have finished reduction" in rank["error"]


def test_a_thawed_pooler_without_a_gradient_trains_with_find_unused_parameters_and_stays(processes):
    for rank in seen(processes, "thawed, mlm alone, find_unused=True"):
        assert rank["steps"] == 5
        assert not {*POOLER} & {*rank["changed"]}, "weight decay does not move it either"


@pytest.mark.parametrize(
    ("name", "pooler_trains"),
    [
        ("pooler_output, MLM head frozen", True),
        ("pooler_output, MLM head trainable, find_unused", True),
        ("pooler_output, BertModel", True),
        ("[CLS], masked-LM class, MLM head frozen", False),
        ("[CLS], BertModel without its pooler", False),
    ],
)
def test_a_head_of_ones_own_trains_under_ddp(processes, name, pooler_trains):
    for rank in seen(processes, name):
        assert rank["steps"] == 3
        changed = {key.removeprefix("encoder.") for key in rank["changed"]}
        assert "head.weight" in changed
        assert any(key.endswith("embeddings.word_embeddings.weight") for key in changed), "the encoder trained"
        assert any("pooler.dense" in key for key in changed) == pooler_trains
        assert not any("cls.predictions.transform" in key for key in changed)


@pytest.mark.versions
def test_fsdp2_trains_as_ddp_does_and_the_pooler_stays(processes):
    ranks = processes[1]
    first = ranks[0]["fsdp2"]
    assert first["shard"] == [16, 32], "premise: each process holds half of the pooler"
    assert len(first["changed"]) > 40, "it trained"
    assert not {*POOLER} & {*first["changed"]}
    for rank in ranks:
        # Sums over two processes are the same in any order: the same up to kernels.
        torch.testing.assert_close(
            torch.tensor(rank["fsdp2"]["losses"]),
            torch.tensor(rank["mlm, sparse=False"]["losses"]),
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.versions
def test_the_full_state_dict_of_fsdp2_is_saved_and_loads(processes, pooled):
    folder = processes[0] / "fsdp"
    model, info = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info.values())
    assert {file.name for file in folder.glob("*.py")} == {*CODE_FILES}  # none of torch's, whose FSDP2 wraps the class
    names = [{*todays(kept)} for kept in (folder, pooled)]
    assert names[0] >= names[1]  # of a `state_dict` that is passed, transformers also stores the tied copies
    assert took(folder, pooled)
    ddp = torch.load(processes[0] / "ddp-False.pt", weights_only=True)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, ddp[name], rtol=1e-5, atol=1e-6)  # as the losses above


@pytest.mark.versions
@accumulates_exactly
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_2_processes_by_2_micro_batches_by_2_rows_give_the_gradients_of_1_batch_of_8(
    processes, pooled, sparse, tmp_path
):
    model = BertPooledMLMForMaskedLM.from_pretrained(pooled, **NO_DROPOUT, sparse_prediction=sparse)
    whole = step_gradients(model, tmp_path, 8, 1)
    parts = [torch.load(processes[0] / f"gradients-{sparse}-{rank}.pt", weights_only=True) for rank in range(2)]
    assert not differing(*parts), "both processes step alike"
    assert distance(whole, parts[0]) < 1e-6
    assert not {*POOLER} & whole.keys()


@pytest.mark.versions
@pytest.mark.parametrize("folder", ["trainer", "trainer/checkpoint-2"])
def test_what_trainer_saves_in_2_processes_has_sentence_transformers_modules_of_the_trained_pooler(
    processes, pooled, folder
):
    assert_modules(processes[0] / folder)
    assert not took(processes[0] / folder, pooled), "premise: it was trained"


@pytest.mark.versions
def test_two_processes_share_an_anchored_stream_and_train_on_no_row_twice(processes):
    first, second = seen(processes, "stream")
    assert sorted(first["rows"] + second["rows"]) == [*range(10, 34)]
    assert first["anchors"] == second["anchors"] == len(first["rows"]) == 12
