"""What a run leaves behind is what it trained."""

from mutations.mutation import Mutation

EXPORT = "trainer/finetune_trainer/export"
REOPENED = "an artifact is reopened and compared before it is called one"
CARD = "a card's own code loads what was trained, in plain transformers and PEFT"
FRESH = "tests/multiproc/test_fresh_process.py"
UNIT = "tests/unit/trainer/test_export.py"

MUTATIONS = [
    Mutation(
        guards=REOPENED,
        name="its parts are not compared in fp32",
        file=f"{EXPORT}/checks.py",
        old="        if models.is_exact:\n",
        new="        if False:\n",
        tests=(
            f"{UNIT}::test_a_spoilt_adapter_is_found",
            f"{UNIT}::test_one_module_of_one_layer_shows_in_what_is_computed",
        ),
        shows="DID NOT RAISE",
    ),
    Mutation(
        guards=REOPENED,
        name="its logits are not compared with those of training",
        file=f"{EXPORT}/checks.py",
        old="    if not found.difference <= allowed:\n",
        new="    if False:\n",
        tests=(UNIT,),
        shows="DID NOT RAISE",
    ),
    Mutation(
        guards=REOPENED,
        name="the share of the change is not looked at",
        file=f"{EXPORT}/checks.py",
        old="    if abs(found.share - 1) > SHARE_TOLERANCE + found.margin:\n",
        new="    if False:\n",
        tests=(f"{UNIT}::test_a_small_difference_of_scale_is_found_where_the_difference_of_logits_is_allowed",),
        shows="DID NOT RAISE",
    ),
    Mutation(
        guards=REOPENED,
        name="merged weights are not held against fp32",
        file=f"{EXPORT}/weights.py",
        old="    if wrong:\n",
        new="    if False:\n",
        tests=(f"{UNIT}::test_a_wrong_merge_is_found_in_bf16", f"{UNIT}::test_a_spoilt_model_file_is_found"),
        shows="DID NOT RAISE",
    ),
    Mutation(
        guards=REOPENED,
        name="merging forgets the scale",
        file="trainer/finetune_trainer/methods/lora.py",
        old="        sum_ED = base_ED + factor * (b_ER @ a_RD)\n",
        new="        sum_ED = base_ED + b_ER @ a_RD\n",
        tests=(f"{UNIT}::test_merging_is_what_peft_makes_of_it_and_rounds_once",),
        shows="",
    ),
    Mutation(
        guards=CARD,
        name="the adapter comes without its tokenizer",
        file=f"{EXPORT}/adapter.py",
        old="        copy_files(source, folder, (name for name in TOKENIZER_FILES if (source / name).is_file()), "
        "finished.disk)\n",
        new="",
        tests=(FRESH,),
        shows="tokenizer",
    ),
    Mutation(
        guards=CARD,
        name="the card's prompt is no dictionary",
        file="trainer/finetune_trainer/usage.py",
        old="""return_tensors="pt", return_dict=True""",
        new="""return_tensors="pt", return_dict=False""",
        tests=(FRESH,),
        shows="",
    ),
    Mutation(
        guards=CARD,
        name="the adapter's card loads its base",
        file="trainer/finetune_trainer/export/card.py",
        old="usage(kind, folder, Place(name=place), ",
        new="usage(kind, folder, Place(name=finished.base_name), ",
        tests=(FRESH,),
        shows="",
    ),
]
