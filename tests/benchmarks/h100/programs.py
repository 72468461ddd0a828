"""A step small enough to be counted by hand: one chunk of eight tokens, three layers, two ticks."""

TABLES = """FileNames
1 "a/executor/forward.py"
2 "a/executor/backward.py"
3 "a/seq1f1b_jax/models/llama.py"
FunctionNames
1 "forward"
2 "backward"
3 "LlamaLayer.pre"
FileLocations
1 {file_name_id=1 function_name_id=1 line=20 end_line=20 column=1 end_column=2}
2 {file_name_id=2 function_name_id=2 line=30 end_line=30 column=1 end_column=2}
3 {file_name_id=3 function_name_id=3 line=7 end_line=7 column=1 end_column=2}
StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}
3 {file_location_id=3 parent_frame_id=2}
"""
# frames 1 and 2 are called by none (the compiler writes callers plus one), 3 by 1

COMPUTATIONS = """
%weights (p: bf16[3,4,4], i: s32[]) -> bf16[1,4,4] {
  %p = bf16[3,4,4]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %s = bf16[1,4,4]{2,1,0} dynamic-slice(%p, %i, %zero, %zero), dynamic_slice_sizes={1,4,4}
}

%ring (r: bf16[3,8,4], y: bf16[8,4], i: s32[]) -> bf16[3,8,4] {
  %r = bf16[3,8,4]{2,1,0} parameter(0)
  %y = bf16[8,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %view = bf16[1,8,4]{2,1,0} bitcast(%y)
  ROOT %u = bf16[3,8,4]{2,1,0} dynamic-update-slice(%r, %view, %i, %zero, %zero)
}

%gemm (x: bf16[8,4], w: bf16[4,4]) -> bf16[8,4] {
  %x = bf16[8,4]{1,0} parameter(0)
  %w = bf16[4,4]{1,0} parameter(1)
  ROOT %d = bf16[8,4]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%gradient (x: bf16[8,4], y: bf16[8,4], g: f32[4,4]) -> f32[4,4] {
  %x = bf16[8,4]{1,0} parameter(0)
  %y = bf16[8,4]{1,0} parameter(1)
  %g = f32[4,4]{1,0} parameter(2)
  %d = bf16[4,4]{1,0} dot(%x, %y), lhs_contracting_dims={0}, rhs_contracting_dims={0}
  %c = f32[4,4]{1,0} convert(%d)
  ROOT %a = f32[4,4]{1,0} add(%g, %c)
}

%forward_layer (c: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %c = (s32[], bf16[8,4]{1,0}, bf16[3,4,4]{2,1,0}, bf16[3,8,4]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = bf16[8,4]{1,0} get-tuple-element(%c), index=1
  %ws = bf16[3,4,4]{2,1,0} get-tuple-element(%c), index=2
  %r = bf16[3,8,4]{2,1,0} get-tuple-element(%c), index=3
  %w = bf16[1,4,4]{2,1,0} fusion(%ws, %i), kind=kLoop, calls=%weights, metadata={stack_frame_id=3}
  %v = bf16[4,4]{1,0} bitcast(%w)
  %y = bf16[8,4]{1,0} fusion(%x, %v), kind=kCustom, calls=%gemm, metadata={stack_frame_id=3}
  %n = bf16[3,8,4]{2,1,0} fusion(%r, %y, %i), kind=kLoop, calls=%ring, metadata={stack_frame_id=1}
  ROOT %t = (s32[], bf16[8,4]{1,0}, /*index=2*/bf16[3,4,4]{2,1,0}, bf16[3,8,4]{2,1,0}) tuple(%i, %y, %ws, %n)
}

%backward_layer (c: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %c = (s32[], bf16[8,4]{1,0}, bf16[1,8,2,2]{3,2,1,0}, f32[4,4]{1,0}) parameter(0)
  %x = bf16[8,4]{1,0} get-tuple-element(%c), index=1
  %q = bf16[1,8,2,2]{3,2,1,0} get-tuple-element(%c), index=2
  %g = f32[4,4]{1,0} get-tuple-element(%c), index=3
  %h = bf16[2,8,2]{2,1,0} bitcast(%q)
  %s = f32[2,8,8]{2,1,0} dot(%h, %h), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={2}
  %f = (bf16[1,2,8,2]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmaxBackward", backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["1", "2", "8", "8"]}, "mask_type": "CAUSAL"}}
  %e = f32[2,8,8]{2,1,0} copy(%s), metadata={stack_frame_id=2}
  %b = f32[4,4]{1,0} fusion(%x, %x, %g), kind=kCustom, calls=%gradient, metadata={stack_frame_id=2}
  ROOT %t = (s32[], bf16[8,4]{1,0}) tuple(%i, %x)
}

%loss (c: (pred[], f32[16])) -> (pred[], f32[16]) {
  %c = (pred[], f32[16]{0}) parameter(0)
  %x = f32[16]{0} get-tuple-element(%c), index=1
  %y = f32[16]{0} copy(%x)
  ROOT %t = (pred[], f32[16]{0}) tuple(%x, %y)
}

%forward (c: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %c = (s32[], bf16[8,4]{1,0}) parameter(0)
  %l = (s32[], bf16[8,4]{1,0}) while(%c), condition=%any, body=%forward_layer, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %last = (s32[], bf16[8,4]{1,0}) while(%l), condition=%any, body=%loss
}

%backward (c: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %c = (s32[], bf16[8,4]{1,0}) parameter(0)
  ROOT %m = (s32[], bf16[8,4]{1,0}) while(%c), condition=%any, body=%backward_layer, backend_config={"known_trip_count":{"n":"3"}}
}

%ticks (c: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %c = (s32[], bf16[8,4]{1,0}) parameter(0)
  %f0 = (s32[], bf16[8,4]{1,0}) while(%c), condition=%any, body=%forward
  %b0 = (s32[], bf16[8,4]{1,0}) while(%f0), condition=%any, body=%backward
  %x = bf16[8,4]{1,0} get-tuple-element(%b0), index=1
  %send = (bf16[8,4]{1,0}, bf16[8,4]{1,0}) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %recv = bf16[8,4]{1,0} collective-permute-done(%send)
  %send.2 = (bf16[8,4]{1,0}, bf16[8,4]{1,0}) collective-permute-start(%recv), source_target_pairs={{1,2},{2,1}}
  %f1 = (s32[], bf16[8,4]{1,0}) while(%b0), condition=%any, body=%forward
  %recv.2 = bf16[8,4]{1,0} collective-permute-done(%send.2)
  %b1 = (s32[], bf16[8,4]{1,0}) while(%f1), condition=%any, body=%backward
  ROOT %t = (s32[], bf16[8,4]{1,0}) tuple(%i, %recv.2)
}

ENTRY %main (x: bf16[8,4]) -> bf16[8,4] {
  %p = (s32[], bf16[8,4]{1,0}) parameter(0)
  %first = (s32[], bf16[8,4]{1,0}) while(%p), condition=%any, body=%loss
  %scan = (s32[], bf16[8,4]{1,0}) while(%first), condition=%any, body=%ticks, backend_config={"known_trip_count":{"n":"9"}}
  ROOT %out = bf16[8,4]{1,0} get-tuple-element(%scan), index=1
}
"""  # noqa: E501

STEP = f"HloModule jit_train_step, is_scheduled=true\n\n{TABLES}\n{COMPUTATIONS}"

THUNKS = """000: kWhile [source | next=001]
condition:
  001: kCustomKernel [source | sink] loop_compare_fusion
  body:
    002: kCopy [source | sink] kCopy
003: kWhile [prev=000 | sink]
  body:
    004: kWhile [source | sink]
condition:
      No thunks.      body:
        005: kWhile [source | sink]
          body:
            000: kCommandBuffer [source | sink]
                006: kCustomKernel [source | sink] fusion
        007: kWhile [source | sink]
          body:
            008: kCopy [source | sink] kCopy
    000: kCommandBuffer [source | sink]
        009: kWhile [source | sink]
          body:
            010: kWhile [source | sink]
    011: kWhile [source | sink]
    000: kCommandBuffer [source | sink]
        014: kWhile [source | sink]
"""
"""`b0` and `b1` are in command buffers."""

_NUMBERS = {"first": 0, "scan": 3, "f0": 4, "l": 5, "last": 7, "b0": 9, "m": 10, "f1": 11, "b1": 14}
NAMES = "\n".join(
    f'thunk_info {{\n  profile_annotation: "{name}"\n  thunk_id: {number}\n}}'
    for name, number in _NUMBERS.items()
)
