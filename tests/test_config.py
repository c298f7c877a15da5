"""The typed configuration: defaults fit together, every impossible combination is one line."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.config import Config, EvalConfig, ModelConfig
from longspan.errors import UserError
from longspan.typed import from_dict, to_dict


def test_the_defaults_are_a_valid_run():
    assert from_dict(Config, {}) == Config()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"model": {"window": -1}}, ["model.window=-1", "0 or more", "null"]),
        ({"model": {"window": [4, -2]}}, ["model.window=-2", "0 or more"]),
        (
            {"model": {"window": [4, None, 4]}},
            ["model.window lists 3 windows", "num_layers=2", "one per layer"],
        ),
        (
            {"model": {"pattern": {"causal": True, "global_edges": 1}}},
            ["model.pattern.global_edges=1", "both ways", "model.pattern.sinks"],
        ),
        (
            {"model": {"pattern": {"block": 4, "dilation": 2}}},
            ["model.pattern.dilation", "model.pattern.block=4"],
        ),
        ({"model": {"pattern": {"summaries": 2}}}, ["model.pattern.summaries=2", "it is 1"]),
        (
            {"model": {"pattern": {"random_table": []}}},
            ["model.pattern.random_table", "model.pattern.random_blocks=0"],
        ),
        (
            {"model": {"pattern": {"random_blocks": 1, "random_table": [[[[0]]], [[[0]]]]}}},
            ["model.pattern.random_table", "model.num_heads=4", "model.pattern.random_blocks=1"],
        ),
        (
            {"model": {"pattern": {"dilation": [1, 2, 1]}}},
            ["model.pattern.dilation lists 3 layers", "model.num_layers=2"],
        ),
        (
            {"model": {"pattern": {"dilation": [[1, 2, 1], 1]}}},
            ["model.pattern.dilation=[1, 2, 1]", "model.num_heads=4"],
        ),
        (
            {"model": {"pattern": {"stride": [1, 2, 3]}}},
            ["model.pattern.stride lists 3 layers", "model.num_layers=2"],
        ),
        ({"model": {"pattern": {"dilation": 0}}}, ["model.pattern.dilation=0", "1 or more"]),
        (
            {"model": {"pattern": {"window_growth": 0.0}}},
            ["model.pattern.window_growth=0.0", "above 0"],
        ),
        (
            {"model": {"window": 0, "pattern": {"dilation": 2}}},
            ["model.pattern.dilation=2 of layer 0", "model.window is 0", "no gaps"],
        ),
        (
            {"model": {"window": None, "pattern": {"sinks": 4}}},
            ["model.pattern.sinks=4", "no effect", "model.window=null"],
        ),
        (
            {"model": {"full_attention_every": 1, "pattern": {"stride": [2, 4]}}},
            ["model.pattern.stride=[2, 4]", "no effect"],
        ),
        (
            {"model": {"window": None, "pattern": {"window_growth": 2.0}}},
            ["model.pattern.window_growth=2.0", "no effect"],
        ),
        (
            {"model": {"pattern": {"window_growth": 1e308}}},
            ["model.pattern.window_growth=1e+308", "larger than any document", "model.window=64"],
        ),
        (
            {"model": {"num_layers": 3000, "pattern": {"window_growth": 1.5}}},
            ["model.pattern.window_growth=1.5", "larger than any document"],
        ),
        ({"model": {"window": 2**30 + 1}}, ["model.window=1073741825", "1073741824 or less"]),
        (
            {"model": {"pattern": {"dilation": [[2**30 + 1, 1]]}}},
            ["model.pattern.dilation=1073741825", "or less"],
        ),
        ({"model": {"pattern": {"sinks": 2**31}}}, ["model.pattern.sinks", "or less"]),
        ({"model": {"pattern": {"stride": 2**31}}}, ["model.pattern.stride", "or less"]),
        ({"model": {"pattern": {"causal": True}}}, ["model.pattern.causal=true", "globals=none"]),
        (
            {"model": {"window": None, "pattern": {"dilation": 2}}},
            ["model.pattern.dilation=2 of layer 0", "no gaps"],
        ),
        (
            {"model": {"window": [4, 4], "pattern": {"window_growth": 2.0}}},
            ["model.pattern.window_growth=2.0", "set it to 1"],
        ),
        (
            {"model": {"pattern": {"causal": True}}, "globals": {"cls": False}},
            ["task.pooling=cls", "task.pooling=mean"],
        ),
        ({"model": {"full_attention_every": -1}}, ["model.full_attention_every=-1", "0 or more"]),
        ({"model": {"hidden_size": 0}}, ["model.hidden_size=0", "1 or more"]),
        ({"model": {"num_layers": 0}}, ["model.num_layers=0", "1 or more"]),
        ({"model": {"num_heads": 0}}, ["model.num_heads=0", "1 or more"]),
        ({"model": {"head_dim": 0}}, ["model.head_dim=0", "1 or more"]),
        ({"model": {"num_kv_heads": 0}}, ["model.num_kv_heads=0", "1 or more"]),
        ({"model": {"intermediate_size": 0}}, ["model.intermediate_size=0", "1 or more"]),
        ({"model": {"max_positions": 0}}, ["model.max_positions=0", "1 or more"]),
        (
            {"model": {"hidden_size": 100, "num_heads": 3}},
            ["model.num_heads=3", "model.hidden_size=100", "divisor", "model.head_dim"],
        ),
        ({"model": {"num_kv_heads": 3}}, ["model.num_kv_heads=3", "num_heads=4", "divisor"]),
        ({"model": {"head_dim": 5}}, ["model.head_dim=5", "even", "model.positions=learned"]),
        ({"model": {"hidden_dropout": 1.0}}, ["model.hidden_dropout=1.0", "[0, 1)"]),
        ({"model": {"attention_dropout": -0.1}}, ["model.attention_dropout=-0.1", "[0, 1)"]),
        ({"globals": {"first_k": -1}}, ["globals.first_k=-1", "0 or more"]),
        ({"globals": {"every_k": -1}}, ["globals.every_k=-1", "0 or more"]),
        ({"globals": {"regex": "(["}}, ["globals.regex='(['", "regular expression", "mend"]),
        ({"data": {"max_length": 2}}, ["data.max_length=2", "3 or more"]),
        (
            {"data": {"tokens_per_batch": 4095}},
            ["data.tokens_per_batch=4095", "data.max_length=4096", "raise it or lower"],
        ),
        ({"data": {"dev_fraction": 1.0}}, ["data.dev_fraction=1.0", "[0, 1)"]),
        ({"data": {"text_column": []}}, ["data.text_column names no column"]),
        ({"data": {"text_column": ""}}, ["data.text_column names no column"]),
        ({"data": {"test_fraction": -0.5}}, ["data.test_fraction=-0.5", "[0, 1)"]),
        ({"data": {"splits": {"valid": "x"}}}, ["data.splits.valid", "train, dev, test"]),
        ({"data": {"files": {"eval": "x.csv"}}}, ["data.files.eval", "train, dev, test"]),
        ({"data": {"num_proc": 0}}, ["data.num_proc=0", "1 or more"]),
        ({"data": {"num_workers": -1}}, ["data.num_workers=-1", "0 or more"]),
        ({"data": {"stride": -1}}, ["data.stride=-1", "0 or more"]),
        ({"data": {"stride": 4096}}, ["data.stride=4096", "data.max_length=4096", "lower it"]),
        ({"data": {"stride": 8}}, ["data.stride=8", "task=qa"]),
        ({"globals": {"question": True}}, ["globals.question=true", "text_pair_column"]),
        (
            {"task": {"name": "qa"}, "data": {"text_pair_column": "x"}},
            ["data.text_pair_column=x", "data.question_column"],
        ),
        (
            {
                "task": {"name": "qa", "long_documents": "truncate"},
                "data": {"truncate": "head+tail"},
            },
            ["data.truncate=head+tail", "head or tail"],
        ),
        ({"task": {"name": "qa", "top_k": 0}}, ["task.top_k=0", "1 or more"]),
        (
            {"task": {"name": "qa", "max_question_length": 0}},
            ["task.max_question_length=0", "1 or more"],
        ),
        (
            {"task": {"name": "qa", "max_answer_length": 0}},
            ["task.max_answer_length=0", "1 or more"],
        ),
        ({"task": {"name": "qa", "temperature": 0}}, ["task.temperature=0.0", "above 0"]),
        (
            {"task": {"name": "qa", "null_threshold": "best"}},
            ["task.null_threshold='best'", "a number, or auto, or null"],
        ),
        (
            {"task": {"name": "qa", "head_norm": True}},
            ["task.head_norm=True", "task.head_activation=null"],
        ),
        ({"task": {"head_dropout": 1.5}}, ["task.head_dropout=1.5", "[0, 1)"]),
        ({"task": {"threshold": float("nan")}}, ["task.threshold=nan", "finite"]),
        ({"task": {"class_weights": [1.0, -1.0]}}, ["task.class_weights=-1.0", "0 or more"]),
        ({"model": {"vocab_size": 0}}, ["model.vocab_size=0", "1 or more"]),
        ({"model": {"rope_theta": 0}}, ["model.rope_theta=0.0", "above 0"]),
        ({"model": {"rope_theta_full": -1}}, ["model.rope_theta_full=-1.0", "above 0"]),
        ({"model": {"norm_eps": -1e-5}}, ["model.norm_eps=-1e-05", "above 0"]),
        ({"model": {"initializer_range": 0}}, ["model.initializer_range=0.0", "above 0"]),
        ({"data": {"dev_fraction": 0.5, "test_fraction": 0.5}}, ["data.dev_fraction=0.5", "lower"]),
        ({"data": {"split_seed": -1}}, ["data.split_seed=-1", "0 or more"]),
        ({"seed": -1}, ["seed=-1", "0 or more"]),
        ({"runs_dir": ""}, ["runs_dir", "name the folder"]),
        ({"optim": {"learning_rate": float("inf")}}, ["optim.learning_rate=inf", "finite"]),
        ({"optim": {"weight_decay": -0.1}}, ["optim.weight_decay=-0.1", "0 or more"]),
        ({"optim": {"eps": 0}}, ["optim.eps=0.0", "above 0"]),
        ({"optim": {"betas": [0.9, 1.0]}}, ["optim.betas=1.0", "[0, 1)"]),
        ({"trainer": {"precision": "bf16-true"}}, ["trainer.precision=bf16-true", "bf16-mixed"]),
        ({"trainer": {"precision": 64}}, ["trainer.precision=64", "32-true"]),
        ({"data": {"streaming": True}}, ["data.streaming=true", "task=mlm"]),
        (
            {"data": {"streaming": True}, "task": {"name": "mlm"}},
            ["data.streaming=true", "trainer.max_steps"],
        ),
        ({"data": {"streaming": True, "shortest_first": True}}, ["data.shortest_first=true"]),
        ({"data": {"streaming": True, "num_workers": 2}}, ["data.num_workers=2", "one process"]),
        ({"data": {"shuffle_buffer": 0}}, ["data.shuffle_buffer=0", "1 or more"]),
        ({"task": {"name": "mlm", "masked_share": 0}}, ["task.masked_share=0.0", "(0, 1)"]),
        ({"task": {"name": "mlm", "pooling": "cls"}}, ["task.pooling is not a field"]),
        ({"task": {"name": "mml"}}, ["task.name='mml'", "classification, mlm"]),
        ({"trainer": {"max_steps": -5}}, ["trainer.max_steps=-5", "-1"]),
        ({"trainer": {"log_every_n_steps": 0}}, ["trainer.log_every_n_steps=0", "1 or more"]),
        ({"trainer": {"overfit_batches": -1}}, ["trainer.overfit_batches=-1", "0 or more"]),
        ({"trainer": {"gradient_clip_val": -1}}, ["trainer.gradient_clip_val=-1.0", "0 or more"]),
        ({"logger": {"timeout_seconds": -1}}, ["logger.timeout_seconds=-1.0", "0 or more"]),
        (
            {"task": {"problem": "multi_label", "label_smoothing": 0.1}},
            ["task.label_smoothing=0.1", "task.problem=single_label", "set it to 0"],
        ),
        (
            {"task": {"problem": "regression", "class_weights": "balanced"}},
            ["task.class_weights", "task.problem=regression", "drop it"],
        ),
        ({"task": {"problem": "single"}}, ["task.problem='single'", "single_label | multi_label"]),
        (
            {"task": {"name": "multihop", "num_paragraphs": 0}},
            ["task.num_paragraphs=0", "1 or more"],
        ),
        (
            {"task": {"name": "multihop", "span_weight": -1.0}},
            ["task.span_weight=-1.0", "0 or more"],
        ),
        (
            {"task": {"name": "multihop"}, "data": {"text_column": ["a", "b"]}},
            ["data.text_column=['a', 'b']", "task=multihop", "name that one"],
        ),
        (
            {"task": {"name": "multihop"}, "globals": {"column": "x"}},
            ["globals.column=x", "task=multihop", "task.structure_globals"],
        ),
        (
            {"task": {"name": "choice", "max_candidate_length": 0}},
            ["task.max_candidate_length=0", "1 or more"],
        ),
        ({"task": {"name": "choice", "first_number": 2}}, ["task.first_number=2", "0 | 1"]),
        (
            {"task": {"name": "choice"}, "data": {"text_pair_column": "x"}},
            ["data.text_pair_column=x", "task=choice", "data.question_column"],
        ),
        (
            {
                "task": {"name": "choice", "long_documents": "truncate"},
                "data": {"truncate": "head+tail"},
            },
            ["data.truncate=head+tail", "task=choice", "use head or tail"],
        ),
        ({"optim": {"learning_rate": 0}}, ["optim.learning_rate=0", "above 0"]),
        ({"optim": {"layer_decay": 0.0}}, ["optim.layer_decay=0.0", "(0, 1]"]),
        ({"optim": {"layer_decay": 1.1}}, ["optim.layer_decay=1.1", "(0, 1]"]),
        ({"optim": {"warmup_ratio": 1.0}}, ["optim.warmup_ratio=1.0", "[0, 1)"]),
        ({"optim": {"freeze_layers": -1}}, ["optim.freeze_layers=-1", "0 or more"]),
        ({"optim": {"freeze_layers": 3}}, ["optim.freeze_layers=3", "model.num_layers=2", "0 … 2"]),
        ({"optim": {"lora": {"rank": -1}}}, ["optim.lora.rank=-1", "0 or more"]),
        ({"optim": {"lora": {"alpha": 0}}}, ["optim.lora.alpha=0", "above 0"]),
        ({"optim": {"lora": {"dropout": 1.0}}}, ["optim.lora.dropout=1.0", "[0, 1)"]),
        ({"optim": {"lora": {"targets": []}}}, ["optim.lora.targets=[]", "name layers"]),
        ({"optim": {"lora": {"targets": ["key"]}}}, ["optim.lora.targets[0]='key'", "qkv | "]),
        (
            {"optim": {"lora": {"rank": 4}, "freeze_layers": 2}},
            ["optim.lora.rank=4", "optim.freeze_layers=2", "lower it"],
        ),
        (
            {"optim": {"lora": {"rank": 4, "targets": ["global_qkv"]}}},
            ["optim.lora.targets=[global_qkv]", "model.global_projections=separate"],
        ),
        (
            {"trainer": {"accumulate_grad_batches": 0}},
            ["trainer.accumulate_grad_batches=0", "1 or more"],
        ),
        ({"trainer": {"max_epochs": -1}}, ["trainer.max_epochs=-1", "trainer.max_steps"]),
        ({"checkpoint": {"monitor": "loss"}}, ["checkpoint.monitor", "checkpoint.mode", "both"]),
        ({"checkpoint": {"mode": "min"}}, ["checkpoint.monitor", "checkpoint.mode", "both"]),
        ({"checkpoint": {"patience": 0}}, ["checkpoint.patience=0", "1 or more"]),
        ({"checkpoint": {"every_n_steps": 0}}, ["checkpoint.every_n_steps=0", "1 or more"]),
        ({"name": "a/b"}, ["name='a/b'", "a slash", "choose another"]),
        ({"name": "a\\b"}, ["name='a\\\\b'", "a slash", "choose another"]),
        ({"name": ".."}, ["name='..'", "ends in a dot"]),
        ({"name": ""}, ["name=''", "it is empty"]),
        ({"experiment": "a/b"}, ["experiment='a/b'", "a slash"]),
        (
            {
                "model": {"positions": "learned", "max_positions": 512},
                "data": {"max_length": 513},
            },
            ["data.max_length=513", "model.max_positions=512", "raise the one or lower the other"],
        ),
        ({"model": {"winow": 4}}, ["model.winow", "did you mean model.window?"]),
        ({"seed": True}, ["seed=True", "an integer"]),
    ],
)
def test_what_is_impossible_is_one_line_that_names_the_field_and_a_remedy(wrong, named):
    with pytest.raises(UserError) as error:
        from_dict(Config, wrong)
    message = str(error.value)
    assert "\n" not in message
    for part in named:
        assert part in message


def test_what_is_possible_is_not_refused():
    from_dict(Config, {"model": {"window": 0}})
    from_dict(Config, {"model": {"window": [None, 0]}})
    from_dict(Config, {"model": {"num_heads": 3, "head_dim": 8}})
    from_dict(Config, {"model": {"head_dim": 5, "positions": "learned"}})
    from_dict(Config, {"data": {"max_length": 512, "tokens_per_batch": 512}})
    from_dict(Config, {"task": {"problem": "multi_label", "class_weights": [1, 2]}})
    from_dict(Config, {"name": "window=64,seed=0", "experiment": "ecthr a (2)"})


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({}, "run is missing"),
        ({"run": "runs/a", "split": "valid"}, "split='valid' has the wrong type; allowed: train"),
        ({"run": "runs/a", "ouput": "x"}, "did you mean output?"),
    ],
)
def test_what_an_evaluation_lacks_is_named(data, named):
    with pytest.raises(UserError) as error:
        from_dict(EvalConfig, data)
    assert named in str(error.value)


def test_the_window_of_each_layer():
    def windows(**given):
        return ModelConfig(num_layers=5, **given).windows

    assert windows(window=8) == (8,) * 5
    assert windows(window=None) == (None,) * 5
    assert windows(window=(1, 2, 3, 4, None)) == (1, 2, 3, 4, None)
    assert windows(window=8, full_attention_every=2) == (None, 8, None, 8, None)
    assert windows(window=8, full_attention_every=1) == (None,) * 5
    assert windows(window=(1, 2, 3, 4, 5), full_attention_every=3) == (None, 2, 3, None, 5)


def test_what_is_left_open_follows_from_the_rest():
    model = ModelConfig(hidden_size=96, num_heads=6)
    assert (model.kv_heads, model.head_size, model.mlp_size) == (6, 16, 384)
    model = ModelConfig(hidden_size=96, num_heads=6, num_kv_heads=2, head_dim=8)
    assert (model.kv_heads, model.head_size) == (2, 8)


@st.composite
def valid(draw):
    """Some fields of a config, of every kind of type."""
    characters = st.characters(exclude_characters="/\\", exclude_categories=["Cc"], codec="utf-8")
    name = st.text(characters, max_size=60).map(lambda text: f"n{text}n")  # as `file_name` has it
    share = st.floats(0, 1, exclude_max=True)
    layers = draw(st.integers(1, 4))
    window = st.none() | st.integers(0, 10**6)
    length = draw(st.integers(3, 10**6))
    return {
        "name": draw(name.filter(lambda text: text not in (".", ".."))),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "overwrite": draw(st.booleans()),
        "model": {
            "num_layers": layers,
            "window": draw(window | st.lists(window, min_size=layers, max_size=layers)),
            "hidden_dropout": draw(share),
            "norm": draw(st.sampled_from(["layernorm", "rmsnorm"])),
        },
        "globals": {"cls": draw(st.booleans())},
        "data": {
            "files": draw(
                st.none()
                | st.dictionaries(
                    st.sampled_from(["train", "dev", "test"]),
                    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=60),
                )
            ),
            "section_separator": draw(st.text(st.characters(codec="utf-8"))),
            "max_length": length,
            "tokens_per_batch": length + draw(st.integers(0, 10**6)),
        },
        "optim": {
            "learning_rate": draw(st.floats(0, exclude_min=True, allow_infinity=False)),
            "betas": draw(st.tuples(share, share).map(list)),
        },
        "trainer": {
            "limit_train_batches": draw(
                st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(0, 1)
            ),
            "deterministic": draw(st.none() | st.booleans() | st.just("warn")),
            "devices": draw(st.integers(1, 8) | st.just("auto") | st.lists(st.integers(0, 7))),
        },
        "logger": {"tags": draw(st.lists(st.text(st.characters(codec="utf-8"))))},
    }


@settings(max_examples=50)
@given(valid())
def test_a_config_survives_yaml_and_json_unchanged(data):
    config = from_dict(Config, data)
    plain = to_dict(config)
    for again in (
        from_dict(Config, plain),
        from_dict(Config, json.loads(json.dumps(plain))),
        from_dict(Config, yaml.safe_load(yaml.safe_dump(plain, sort_keys=False))),
    ):
        assert again == config
        assert repr(again) == repr(config)  # 1, 1.0 and True are equal, but not the same
