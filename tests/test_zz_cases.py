import sys, traceback, os, collections, time

sys.path.insert(0, "/work/wt/fuzz")
import pytest

CASES = [
    ("trainer.limit_val_batches", 0),
    ("trainer.limit_val_batches", 0.0),
    ("trainer.val_check_interval", 10**6),
    ("trainer.val_check_interval", 0.0),
    ("trainer.val_check_interval", 0),
    ("trainer.val_check_interval", "00:00:01"),
    ("trainer.val_check_interval", "x"),
    ("trainer.val_check_interval", -1),
    ("trainer.val_check_interval", 2.5),
    ("trainer.check_val_every_n_epoch", None),
    ("trainer.check_val_every_n_epoch", 0),
    ("trainer.check_val_every_n_epoch", -1),
    ("trainer.check_val_every_n_epoch", 1000),
    ("trainer.max_time", "garbage"),
    ("trainer.max_time", {"days": 1}),
    ("trainer.max_time", {"a": 1}),
    ("trainer.max_time", "00:00:00:00"),
    ("trainer.max_time", {"days": 10**9}),
    ("trainer.fast_dev_run", True),
    ("trainer.fast_dev_run", 2),
    ("trainer.fast_dev_run", -1),
    ("trainer.overfit_batches", 1),
    ("trainer.overfit_batches", 0.5),
    ("trainer.overfit_batches", 1.5),
    ("trainer.overfit_batches", 10**9),
    ("trainer.overfit_batches", 0.01),
    ("trainer.limit_train_batches", 0),
    ("trainer.limit_train_batches", 0.0),
    ("trainer.limit_train_batches", 1.0),
    ("trainer.limit_train_batches", 10**9),
    ("trainer.limit_train_batches", -1),
    ("trainer.limit_train_batches", 0.01),
    ("trainer.limit_test_batches", 0),
    ("trainer.limit_test_batches", 0.01),
    ("trainer.limit_val_batches", 0.01),
    ("trainer.num_sanity_val_steps", -1),
    ("trainer.num_sanity_val_steps", 2),
    ("trainer.num_sanity_val_steps", -5),
    ("trainer.accumulate_grad_batches", 10**9),
    ("trainer.accumulate_grad_batches", 2**62),
    ("trainer.gradient_clip_algorithm", "x"),
    ("trainer.gradient_clip_algorithm", "value"),
    ("trainer.deterministic", True),
    ("trainer.deterministic", "warn"),
    ("trainer.inference_mode", False),
    ("trainer.profiler", "simple"),
    ("trainer.profiler", "advanced"),
    ("trainer.profiler", "xla"),
    ("trainer.profiler", "x"),
    ("trainer.detect_anomaly", True),
    ("trainer.barebones", True),
    ("trainer.sync_batchnorm", True),
    ("trainer.plugins", "x"),
    ("trainer.plugins", []),
    ("trainer.model_registry", "x"),
    ("trainer.precision", 16),
    ("trainer.precision", "16-mixed"),
    ("trainer.precision", "bf16"),
    ("trainer.precision", "transformer-engine"),
    ("trainer.precision", "x"),
    ("trainer.precision", 8),
    ("trainer.accelerator", "gpu"),
    ("trainer.accelerator", "tpu"),
    ("trainer.accelerator", "x"),
    ("trainer.accelerator", ""),
    ("trainer.devices", 0),
    ("trainer.devices", -1),
    ("trainer.devices", "x"),
    ("trainer.devices", [0]),
    ("trainer.devices", []),
    ("trainer.devices", ""),
    ("trainer.strategy", "x"),
    ("trainer.strategy", "fsdp"),
    ("trainer.strategy", "deepspeed"),
    ("checkpoint.every_n_steps", 1),
    ("checkpoint.patience", 1),
    ("trainer.min_epochs", 5),
    ("trainer.min_epochs", -5),
    ("trainer.max_steps", 1),
    ("trainer.log_every_n_steps", 2**62),
    ("trainer.enable_progress_bar", True),
    ("trainer.enable_model_summary", True),
    ("data.group_column", "text"),
    ("data.group_column", "x"),
    ("data.id_column", "label"),
    ("data.id_column", "text"),
    ("data.split_seed", 2**62),
    ("data.truncate", "tail"),
    ("data.section_separator", "\0"),
    ("data.shortest_first", True),
    ("data.tokens_per_batch", "auto"),
    ("data.tokens_per_batch", 2**62),
    ("data.max_length", 3),
    ("data.label_column", "text"),
    ("data.text_pair_column", "label"),
    ("data.text_column", ["text", "text"]),
    ("data.splits", {}),
    ("data.splits", {"train": None}),
    ("data.cache_dir", "/dev/null/x"),
    ("data.cache_dir", "/proc/1/x"),
    ("data.cache_dir", ""),
    ("data.tokenizer", ""),
    ("data.tokenizer", "."),
    ("data.tokenizer", "/dev/null"),
    ("data.tokenizer", "a b"),
    ("data.tokenizer", "package:os"),
    ("data.tokenizer", "embedded:"),
    ("data.tokenizer", "embedded:../x"),
    ("data.name", "x"),
    ("data.revision", "x"),
    ("data.needle", {}),
    ("data.num_workers", 1),
    ("globals.regex", "("),
    ("globals.regex", ".*"),
    ("globals.regex", ""),
    ("globals.regex", "(a+)+$"),
    ("globals.first_k", 2**62),
    ("globals.every_k", 2**62),
    ("globals.column", "text"),
    ("globals.column", "x"),
    ("globals.separators", True),
    ("globals.cls", False),
    ("model.window", 0),
    ("model.window", 2**62),
    ("model.window", None),
    ("model.window", [1, None]),
    ("model.full_attention_every", 2**62),
    ("model.rope_theta", 1e-320),
    ("model.rope_theta", [1.0, 1e300]),
    ("model.norm_eps", 1e300),
    ("model.initializer_range", 1e300),
    ("model.initializer_range", 1e-320),
    ("model.hidden_dropout", 0.999999),
    ("model.attention_dropout", 0.5),
    ("model.positions", "learned"),
    ("model.positions", "none"),
    ("model.type_vocab_size", 1),
    ("model.type_vocab_size", 3),
    ("model.num_kv_heads", 1),
    ("model.head_dim", 2),
    ("model.head_dim", 6),
    ("model.head_dim", 1),
    ("model.hidden_size", 2),
    ("model.intermediate_size", 1),
    ("model.vocab_size", 3),
    ("model.vocab_size", 40000),
    ("model.gradient_checkpointing", True),
    ("model.mlp", "geglu"),
    ("model.norm", "rmsnorm"),
    ("model.norm_position", "post"),
    ("model.first_norm", False),
    ("model.attention_backend", "flex"),
    ("model.attention_backend", "reference"),
    ("model.attention_backend", "blocked"),
    ("model.keep_layers", [9]),
    ("model.pretrained", "."),
    ("model.pretrained", ""),
    ("model.max_positions", 5),
    ("optim.learning_rate", 1e300),
    ("optim.learning_rate", 1e-320),
    ("optim.weight_decay", 1e300),
    ("optim.betas", [0.0, 0.0]),
    ("optim.eps", 1e-320),
    ("optim.eps", 1e300),
    ("optim.layer_decay", 1e-320),
    ("optim.warmup_ratio", 0.999),
    ("optim.freeze_layers", 2),
    ("optim.freeze_embeddings", True),
    ("optim.lora", {"rank": 2**40}),
    ("optim.lora", {"rank": 1, "alpha": 1e300}),
    ("optim.lora", {"rank": 1, "targets": ["global_qkv"]}),
    ("optim.lora", {"rank": 4}),
    ("task.problem", "multi_label"),
    ("task.problem", "regression"),
    ("task.class_weights", [0, 0]),
    ("task.class_weights", [1e300, 1.0]),
    ("task.class_weights", "balanced"),
    ("task.label_smoothing", 0.99),
    ("task.head_dropout", 0.99),
    ("task.pooling", "mean"),
    ("task.name", "mlm"),
    ("task.name", "qa"),
    ("task.name", "choice"),
    ("task.name", "multihop"),
    ("task", {"name": "mlm", "masked_share": 1e-9}),
    ("experiment", "a\nb"),
    ("name", "é" * 100),
    ("name", "\udc80"),
    ("name", " "),
    ("runs_dir", "/dev/null"),
    ("runs_dir", "/proc/x"),
    ("runs_dir", "\udc80"),
    ("seed", 2**32 - 1),
    ("first", ["x"]),
    ("overwrite", True),
    ("checkpoint", {"monitor": "x", "mode": "min"}),
    ("checkpoint", {"monitor": "accuracy", "mode": "min"}),
    ("logger.tags", ["\0"]),
]


def test_all(make_config, tiny_fields, tmp_path_factory, monkeypatch):
    import importlib.util

    spec = importlib.util.spec_from_file_location("tf", "/work/wt/fuzz/tests/fuzz/test_fields.py")
    tf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tf)
    from longspan.training import run
    from longspan.errors import UserError
    from longspan.compose.configuration import as_config
    import torch, warnings, logging

    warnings.simplefilter("ignore")
    logging.getLogger("longspan").setLevel(50)
    logging.getLogger("lightning.pytorch").setLevel(50)
    monkeypatch.setattr(run, "Throughput", tf.EndsSoon)
    monkeypatch.setattr(run.report, "show", lambda *_: None)
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    only = os.environ.get("ONLY")
    for name, value in CASES:
        if only and only not in name:
            continue
        tree = {}
        for k, v in (
            tiny_fields
            | {"trainer.max_epochs": 1, "runs_dir": str(tmp_path_factory.mktemp("r"))}
            | {name: value}
        ).items():
            tf.put(tree, k, v)
        if name in ("optim.lora", "task", "checkpoint"):
            pass
        t = time.process_time()
        try:
            run.train(as_config(tree))
            out = "OK"
        except tf.EnoughError:
            out = "OK enough"
        except UserError as e:
            out = "refused: " + str(e)[:230]
        except BaseException as e:
            tb = traceback.extract_tb(e.__traceback__)
            own = [f for f in tb if "longspan" in f.filename]
            out = f"!!!!! {type(e).__name__}: {str(e)[:250]!r} at {own[-1].filename[-40:]}:{own[-1].lineno} | {tb[-1].filename[-50:]}:{tb[-1].lineno}"
        torch.use_deterministic_algorithms(False)
        print(f"{name}={str(value)[:30]!r} [{time.process_time() - t:.1f}s] {out}", flush=True)
