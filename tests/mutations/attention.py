"""Documents side by side: offsets, positions, masks."""

from mutations.mutation import Mutation

ATTENTION = "trainer/finetune_trainer/attention.py"
LOADER = "trainer/finetune_trainer/data/loader.py"
UNSEEN = "no packed document sees another, in values and gradients"
LEAKS = "tests/unit/trainer/test_leaks.py"

MUTATIONS = [
    Mutation(
        guards=UNSEEN,
        name="attention runs over the whole row",
        file=ATTENTION,
        old="spans = [slice(*pair) for pair in pairwise(documents.offsets)]",
        new="spans = [slice(0, documents.offsets[-1])]",
        tests=(f"{LEAKS}::test_perturbing_any_document_moves_no_logit_of_another",),
        shows="bit for bit the same elsewhere",
    ),
    Mutation(
        guards=UNSEEN,
        name="attention runs over the whole row, seen by its gradient",
        file=ATTENTION,
        old="spans = [slice(*pair) for pair in pairwise(documents.offsets)]",
        new="spans = [slice(0, documents.offsets[-1])]",
        tests=(f"{LEAKS}::test_the_loss_of_a_document_has_no_gradient_in_another",),
        shows="assert",
    ),
    Mutation(
        guards=UNSEEN,
        name="attention is not causal",
        file=ATTENTION,
        old="is_causal=True,\n            scale=scaling,",
        new="is_causal=False,\n            scale=scaling,",
        tests=("tests/unit/trainer/test_attention.py",),
        shows="Tensor-likes are not close",
    ),
    Mutation(
        guards=UNSEEN,
        name="the sequences of a micro-batch are one document each",
        file=LOADER,
        old="document_offsets=(*begins.tolist(), len(input_ids_T)),",
        new="document_offsets=(0, len(input_ids_T)),",
        tests=(
            "tests/unit/trainer_data/test_loader.py::test_documents_lie_side_by_side_and_never_predict_one_another",
        ),
        shows="assert",
    ),
    Mutation(
        guards="position ids restart with every document",
        name="positions count on through the row",
        file=LOADER,
        old="torch.from_numpy(np.arange(len(input_ids_T)) - np.repeat(begins, lengths)).unsqueeze(0)",
        new="torch.from_numpy(np.arange(len(input_ids_T))).unsqueeze(0)",
        tests=(f"{LEAKS}::test_positions_restart_with_every_document",),
        shows="assert",
    ),
    Mutation(
        guards="position ids restart with every document",
        name="the model makes its own positions",
        file="trainer/finetune_trainer/loss.py",
        old="        position_ids=micro.position_ids_1T,\n",
        new="",
        tests=(f"{LEAKS}::test_positions_restart_with_every_document",),
        shows="assert",
    ),
    Mutation(
        guards="no mask tensor is made",
        name="transformers makes a mask",
        file=ATTENTION,
        old="AttentionMaskInterface.register(ATTENTION, _no_mask)",
        new="from transformers.masking_utils import sdpa_mask\nAttentionMaskInterface.register(ATTENTION, sdpa_mask)",
        tests=(f"{LEAKS}::test_perturbing_any_document_moves_no_logit_of_another",),
        shows="",
    ),
    Mutation(
        guards="packed documents have the loss and gradients that they have one by one",
        name="a target is the token itself",
        file=LOADER,
        old="supervised_S=torch.from_numpy(targets_S - 1),",
        new="supervised_S=torch.from_numpy(targets_S),",
        tests=("tests/unit/trainer_data/test_loader.py::test_a_target_is_the_next_token_of_the_same_document",),
        shows="",
    ),
]
