//! What the model of [text](super::text) has learned before it reads one: a table of contents as many models have it.
//!
//! It belongs to the format: another text would make other files of the same models.

/// The lines of a few layers of language models and of convolutional networks, in the most frequent forms.
pub(super) const KNOWN: &str = "\
bert.embeddings.LayerNorm.bias\tF32:768:planes:2570\n\
bert.embeddings.LayerNorm.weight\tF32:768:planes:2387\n\
embeddings.position_embeddings.weight\ttrellis shape=512x768 +codes=trellis:512:768:246335:160321 +scale=F32:1\n\
embeddings.token_type_embeddings.weight\tF32:2x768:planes:5120\n\
embeddings.word_embeddings.weight\ttrellis shape=30522x768 +codes=trellis:30522:768:14681925:7412405 +scale=F32:1\n\
encoder.layer.0.attention.output.dense.bias\tF32:768:planes:2602\n\
encoder.layer.0.attention.self.query.weight\tfixed_point shape=768x768 bits=4 scaling=row symmetry=symmetric +codes=numbers:4:589824:768:7:263110 +scales=F16:768:planes:1298\n\
encoder.layer.0.intermediate.dense.weight\tpq shape=3072x768 axis=in +codes=codes:6:1179648:64:1:834011 +codebooks=F16:1x64x2:planes:219\n\
encoder.layer.0.output.dense.weight\tbinary shape=768x3072 scaling=row +signs=U8:294912 +scales=F32:768:planes:2377\n\
pooler.dense.weight\tsparse_quantized shape=768x768 +bitmap=codes:8:73728:256:1:35012 /values\n\
pq shape=58982x1 axis=in +codes=codes:4:58982:16:1:27004 +codebooks=F16:1x16x1\n\
lm_head.weight\t=model.embed_tokens.weight\n\
model.layers.0.input_layernorm.weight\tBF16:2048:planes:1703\n\
model.layers.0.mlp.down_proj.weight\tfixed_point shape=2048x8192 dtype=BF16 bits=4 scaling=row symmetry=affine +codes=numbers:4:16777216:8192:8:7410231 +scales=F16:2048:planes:3403 +zero_points=U16:2048:planes:1903\n\
model.layers.0.mlp.gate_proj.weight\tfactored_matrix shape=8192x2048 dtype=F16 /left /right\n\
fixed_point shape=8192x64 bits=8 scaling=row symmetry=symmetric +codes=numbers:8:524288:64:127:460213 +scales=F16:8192:planes:13405\n\
fixed_point shape=64x2048 bits=8 scaling=tensor symmetry=symmetric +codes=numbers:8:131072:2048:127:110213 +scales=F16:1\n\
model.layers.0.self_attn.k_proj.weight\tlow_rank shape=512x2048 +left=F16:512x64:planes:55210 +right=F16:64x2048:planes:220140\n\
model.layers.0.self_attn.q_proj.bias\tBF16:2048:planes:2801\n\
features.0.conv1.weight\tcp_convolution shape=64x3x7x7 padding=1x1 stride=2x2 +reduce=F32:3x16 +vertical=F32:7x16 +horizontal=F32:7x16 +expand=F32:64x16:planes:3401\n\
layer1.0.bn1.num_batches_tracked\tI64:\n\
layer1.0.bn1.running_mean\tF32:64:planes:231\n\
layer1.0.bn1.running_var\tF32:64:planes:222\n\
layer1.0.conv2.weight\tfixed_point shape=64x576 view=64x64x3x3 bits=5 scaling=row symmetry=symmetric +codes=numbers:5:36864:576:15:20541 +scales=F16:64\n\
layer1.0.downsample.0.weight\tdense shape=128x64 view=128x64x1x1 +values=F16:128x64:planes:13902\n\
fc1.bias\tF32:300:planes:1021\n\
fc1.weight\tfixed_point shape=300x784 bits=4 scaling=row symmetry=symmetric +codes=numbers:4:235200:784:7:104631 +scales=F16:300:planes:513\n\
";
