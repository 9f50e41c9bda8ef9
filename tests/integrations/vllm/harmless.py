"""vLLM's settings that change no KV, or only its last bits: each was read, and what is new asks for a decision."""

ELSEWHERE = {
    "ModelConfig": """
        model model_weights dtype hf_config hf_text_config hf_config_path revision code_revision quantization
        quantization_config disable_sliding_window enable_prompt_embeds config_format hf_overrides
        model_class_overrides multimodal_config
    """,
    "CacheConfig": """
        block_size kv_cache_layout cache_dtype kv_cache_dtype_skip_layers mamba_cache_dtype mamba_ssm_cache_dtype
    """,
    "ParallelConfig": """
        pipeline_parallel_size tensor_parallel_size prefill_context_parallel_size decode_context_parallel_size
        enable_dbo ubatch_size rank
    """,
    "LoadConfig": "load_format ignore_patterns",
    "AttentionConfig": "",
    "LoRAConfig": "lora_dtype",
    "MultiModalConfig": """
        mm_processor_kwargs mm_encoder_attn_dtype mm_encoder_fp8_scale_path video_pruning_rate video_pruning_method
    """,
    "SpeculativeConfig": "model method revision draft_model_config",
    "VllmConfig": """
        model_config cache_config parallel_config load_config attention_config lora_config speculative_config
        diffusion_config quant_config kv_transfer_config kv_events_config additional_config
    """,
}
"""What is in a spec or in a revision, or refused, by more than its name. Layers of drafts: only the tier has them."""

HARMLESS = {
    # tokens before they are tokens, what is told of them, memory, and which code computes the same
    "ModelConfig": """
        runner convert tokenizer tokenizer_mode trust_remote_code seed is_submodel_config
        word_embeddings_untied_by_checkpoint allowed_local_media_path allowed_media_domains tokenizer_revision
        max_model_len spec_target_max_model_len allow_deprecated_quantization enforce_eager return_sampling_mask
        max_logprobs logprobs_mode use_fp64_gumbel enable_trace_replay disable_cascade_attn skip_tokenizer_init
        served_model_name hf_token generation_config override_generation_config enable_sleep_mode
        sleep_preserve_parameter_names sleep_mode_backend sleep_mode_offload_cudagraph enable_nccl_comm_suspend
        enable_cumem_allocator model_impl logits_processors io_processor_plugin renderer_num_workers pooler_config
    """,
    # how much memory there is and what is kept in it; models with states instead of KV are refused
    "CacheConfig": """
        user_specified_block_size prefix_match_unit gpu_memory_utilization is_attention_free
        num_gpu_blocks_override sliding_window enable_prefix_caching prefix_caching_hash_algo
        prefix_cache_retention_interval mamba_page_size_padded skip_page_size_padded mamba_block_size
        mamba_cache_mode enable_mamba_shared_prefix_checkpoint replayssm_buffer_len use_replayssm
        use_kda_recoverssm num_gpu_blocks num_cpu_blocks simple_cpu_offload_num_blocks
        effective_attention_block_size kv_cache_size_tokens kv_cache_max_concurrency hash_block_size
        cache_hit_alignment_tokens kv_sharing_fast_prefill swa_bounded_replay kv_cache_memory_bytes
        kv_offloading_size kv_offloading_backend _block_size_resolved
    """,
    # who computes what, and how they find each other
    "ParallelConfig": """
        data_parallel_size data_parallel_size_local data_parallel_rank data_parallel_rank_local
        data_parallel_master_ip data_parallel_rpc_port dp_sync_interval data_parallel_master_port
        data_parallel_backend data_parallel_external_lb data_parallel_hybrid_lb is_moe_model enable_hc_sp
        enable_expert_parallel enable_batch_sharded_sampling enable_ep_weight_filter enable_eplb eplb_config
        expert_placement_strategy all2all_backend max_parallel_loading_workers disable_custom_all_reduce
        enable_shm_tensor_arena enable_elastic_ep elastic_ep_max_dp_size dbo_decode_token_threshold
        dbo_prefill_token_threshold disable_nccl_for_dp_synchronization ray_workers_use_nsight ray_runtime_env
        placement_group distributed_executor_backend worker_cls worker_extension_cls master_addr master_port
        node_rank nnodes numa_bind numa_bind_nodes numa_bind_cpus assigned_physical_gpu_ids
        distributed_timeout_seconds cpu_distributed_timeout_seconds world_size _data_parallel_master_port_list
        _coord_store_port dcp_kv_cache_interleave_size dcp_comm_backend dcp_q_replicate
        cp_kv_cache_interleave_size _allow_auto_resolve_cp_interleave_size data_parallel_index
        _api_process_count _api_process_rank enable_fault_tolerance fault_tolerance_config
    """,
    # how the same files are read
    "LoadConfig": """
        download_dir safetensors_load_strategy safetensors_prefetch_num_threads safetensors_prefetch_block_size
        model_loader_extra_config device use_tqdm_on_load pt_load_map_location
    """,
    # which kernel computes the same; queries are quantised only where KV is, which is refused
    "AttentionConfig": """
        backend minimax_m3_msa_decode_backend backend_per_kind flash_attn_version
        flash_attn_max_num_splits_for_cuda_graph tokenspeed_mla_min_split_kv tq_max_kv_splits_for_cuda_graph
        use_trtllm_attention disable_flashinfer_q_quantization mla_prefill_backend trtllm_ragged_backend
        indexer_sparse_logits indexer_tp_shard_min_rows minimax_m3_indexer_cp sparse_mla_force_mqa
        sparse_mla_prefill_workspace_factor flex_attn_block_m flex_attn_block_n flex_attn_q_block_size
        flex_attn_kv_block_size
    """,
    # how many there are and where they lie; a default one is in the request like any other
    "LoRAConfig": """
        max_lora_rank max_loras fully_sharded_loras max_cpu_loras default_mm_loras specialize_active_lora
        enable_mixed_moe_lora_format max_lora_cls_labels
    """,
    # what is decoded, which the hash of an image says, who encodes it, and what is kept of it
    "MultiModalConfig": """
        language_model_only limit_per_prompt enable_mm_embeds media_io_kwargs mm_device_do_normalize
        mm_processor_cache_gb mm_processor_cache_type mm_hasher_algorithm mm_shm_cache_max_object_size_mb
        mm_encoder_only mm_encoder_tp_mode mm_encoder_attn_backend mm_encoder_fp8_scale_save_path
        mm_encoder_fp8_scale_save_margin interleave_mm_strings skip_mm_profiling mm_tensor_ipc
        allow_missing_mm_embeddings mm_ipc_gpu_memory_gb
    """,
    # which tokens are proposed: those that are taken are the model's own
    "SpeculativeConfig": """
        enforce_eager num_speculative_tokens draft_tensor_parallel_size tensor_parallel_size quantization
        moe_backend attention_backend kv_cache_dtype max_model_len code_revision index_share_for_mtp_iteration
        disable_padded_drafter_batch disable_eagle_block_drop disable_lookahead_block_hashes
        draft_lm_head_quantization use_local_argmax_reduction use_heterogeneous_vocab prompt_lookup_max
        prompt_lookup_min parallel_drafting target_model_config target_parallel_config
        num_speculative_tokens_per_batch_size draft_parallel_config suffix_decoding_max_tree_depth
        suffix_decoding_max_cached_requests suffix_decoding_max_spec_factor suffix_decoding_min_token_prob
        draft_load_config rejection_sample_method synthetic_acceptance_rates synthetic_acceptance_length
        enable_adaptive_verification draft_sample_method dspark_draft_topk xpress_topc fly_window_size
        fly_entropy_threshold fly_entropy_top_k
    """,
    # the rest: when, where, by which kernels, and what is told of it
    "VllmConfig": """
        scheduler_config device_config offload_config aux_output_config engram_config mamba_config kernel_config
        watermark_config structured_outputs_config observability_config logging_config compilation_config
        profiler_config ec_transfer_config ec_manager_config reasoning_config instance_id optimization_level
        performance_mode weight_transfer_config watchdog_config shutdown_timeout
    """,
}

HARMLESS_VARIABLES = {
    # where things are built, found, cached and logged
    "around": """
        CMAKE_BUILD_TYPE CUDA_HOME CUDA_VISIBLE_DEVICES FORCE_COLOR LD_LIBRARY_PATH LOCAL_RANK MAX_JOBS NO_COLOR
        NVCC_THREADS S3_ACCESS_KEY_ID S3_ENDPOINT_URL S3_SECRET_ACCESS_KEY VERBOSE VLLM_ASSETS_CACHE
        VLLM_ASSETS_CACHE_MODEL_CLEAN VLLM_BUILD_COMMIT VLLM_BUILD_PIPELINE VLLM_BUILD_URL VLLM_CACHE_ROOT
        VLLM_COMPILE_CACHE_SAVE_FORMAT VLLM_CONFIGURE_LOGGING VLLM_CONFIG_ROOT VLLM_CPU_CI_ENV
        VLLM_CUDART_SO_PATH VLLM_CUDA_COMPATIBILITY_PATH VLLM_CUSTOM_SCOPES_FOR_PROFILING VLLM_DEBUG_DUMP_PATH
        VLLM_DEBUG_LOG_API_SERVER_RESPONSE VLLM_DEBUG_MFU_METRICS VLLM_DEBUG_WORKSPACE
        VLLM_DISABLE_COMPILE_CACHE VLLM_DISABLE_LOG_LOGO VLLM_DOCKER_BUILD_CONTEXT VLLM_DO_NOT_TRACK
        VLLM_ENABLE_CUDA_COMPATIBILITY VLLM_GC_DEBUG VLLM_GPU_SYNC_CHECK VLLM_IMAGE_TAG VLLM_LOGGING_COLOR
        VLLM_LOGGING_CONFIG_PATH VLLM_LOGGING_LEVEL VLLM_LOGGING_PREFIX VLLM_LOGGING_STREAM
        VLLM_LOG_BATCHSIZE_INTERVAL VLLM_LOG_MODEL_INSPECTION VLLM_LOG_STATS_INTERVAL VLLM_MAIN_CUDA_VERSION
        VLLM_NCCL_INCLUDE_PATH VLLM_NCCL_SO_PATH VLLM_NO_USAGE_STATS VLLM_NVTX_SCOPES_FOR_PROFILING
        VLLM_PATTERN_MATCH_DEBUG VLLM_PLUGINS VLLM_PROCESS_NAME_PREFIX VLLM_REQUEST_BODY_LOG_LEVEL
        VLLM_RUST_FRONTEND_PATH VLLM_SERVER_DEV_MODE VLLM_SKIP_PRECOMPILED_VERSION_SUFFIX
        VLLM_SKIP_VERSION_SUFFIX VLLM_TARGET_DEVICE VLLM_TEST_FORCE_LOAD_FORMAT VLLM_TRACE_FUNCTION
        VLLM_USAGE_SOURCE VLLM_USAGE_STATS_SERVER VLLM_USE_PRECOMPILED VLLM_USE_PRECOMPILED_RUST
        VLLM_USE_RUST_BENCH VLLM_XLA_CACHE_PATH VLLM_XLA_CHECK_RECOMPILATION
    """,
    # what is asked and answered, before tokens and behind them; a redirected model is named by what it leads to
    "serving": """
        VLLM_ALLOW_LONG_MAX_MODEL_LEN VLLM_ALLOW_RUNTIME_LORA_UPDATING VLLM_API_KEY VLLM_AUDIO_FETCH_TIMEOUT
        VLLM_BEAM_ALWAYS_CONSTRAIN_OUTPUT VLLM_CHAT_TEMPLATE_FUEL VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT
        VLLM_COMPUTE_NANS_IN_LOGITS VLLM_DISABLE_REQUEST_ID_RANDOMIZATION VLLM_ENABLE_COHERE_API
        VLLM_ENABLE_RESPONSES_API_STORE VLLM_ENFORCE_STRICT_TOOL_CALLING
        VLLM_GPT_OSS_HARMONY_SYSTEM_INSTRUCTIONS VLLM_GPT_OSS_SYSTEM_TOOL_MCP_LABELS
        VLLM_HTTP_MAX_REQUEST_BODY_SIZE VLLM_HTTP_TIMEOUT_KEEP_ALIVE VLLM_IMAGE_FETCH_TIMEOUT
        VLLM_LORA_RESOLVER_CACHE_DIR VLLM_LORA_RESOLVER_HF_REPO_LIST VLLM_MAX_AUDIO_CLIP_FILESIZE_MB
        VLLM_MAX_AUDIO_DECODE_BYTES VLLM_MAX_AUDIO_DECODE_DURATION_S VLLM_MAX_AUDIO_PREPROCESS_WORKERS
        VLLM_MAX_BAD_WORDS_TOTAL_TOKENS VLLM_MAX_COMPLETION_PROMPTS VLLM_MAX_EMBED_DECODE_BYTES
        VLLM_MAX_IMAGE_PIXELS VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB VLLM_MAX_MEDIA_REQUEST_DECODE_BYTES
        VLLM_MAX_MEDIA_REQUEST_DOWNLOAD_SIZE_MB VLLM_MAX_NUM_BAD_WORDS VLLM_MAX_N_SEQUENCES
        VLLM_MAX_STOP_STRINGS VLLM_MEDIA_CACHE VLLM_MEDIA_CACHE_MAX_SIZE_MB VLLM_MEDIA_CACHE_TTL_HOURS
        VLLM_MEDIA_CONNECTOR VLLM_MEDIA_FETCH_MAX_RETRIES VLLM_MEDIA_LOADING_THREAD_COUNT
        VLLM_MEDIA_URL_ALLOW_REDIRECTS VLLM_MODEL_REDIRECT_PATH VLLM_RAISE_ON_LOGIT_NANS
        VLLM_REGEX_COMPILATION_TIMEOUT_S VLLM_SKIP_MODEL_NAME_VALIDATION VLLM_SYSTEM_START_DATE
        VLLM_TOOL_JSON_ERROR_AUTOMATIC_RETRY VLLM_TOOL_PARSE_REGEX_TIMEOUT_SECONDS
        VLLM_USE_EXPERIMENTAL_PARSER_CONTEXT VLLM_USE_FASTOKENS VLLM_USE_MODELSCOPE VLLM_USE_RUST_FRONTEND
        VLLM_V1_OUTPUT_PROC_CHUNK_SIZE VLLM_V1_USE_OUTLINES_CACHE VLLM_VIDEO_FETCH_TIMEOUT
        VLLM_VIDEO_LOADER_BACKEND VLLM_XGRAMMAR_CACHE_MB
    """,
    # processes, ports and what is sent between them
    "processes": """
        MOONCAKE_PREFERRED_SEGMENT MOONCAKE_REQUESTER_LOCAL_HOSTNAME VLLM_ALLOW_INSECURE_SERIALIZATION
        VLLM_ALLREDUCE_USE_FLASHINFER VLLM_ALLREDUCE_USE_FLASHINFER_PCIE_IPC VLLM_ALLREDUCE_USE_SYMM_MEM
        VLLM_DBO_COMM_SMS VLLM_DCP_Q_REPLICATE VLLM_DEEPEP_BUFFER_SIZE_MB
        VLLM_DEEPEP_HIGH_THROUGHPUT_FORCE_INTRA_NODE VLLM_DEEPEP_LOW_LATENCY_USE_MNNVL
        VLLM_DEEPEP_V2_ALLOW_HYBRID_MODE VLLM_DEEPEP_V2_PREFER_OVERLAP VLLM_DISABLE_PYNCCL
        VLLM_DISTRIBUTED_USE_SPLIT_GROUP VLLM_DP_MASTER_IP VLLM_DP_MASTER_PORT VLLM_DP_RANK VLLM_DP_RANK_LOCAL
        VLLM_DP_SIZE VLLM_EC_SIDE_CHANNEL_HOST VLLM_EC_SIDE_CHANNEL_PORT VLLM_ELASTIC_EP_DRAIN_REQUESTS
        VLLM_ELASTIC_EP_SCALE_UP_LAUNCH VLLM_ENABLE_V1_MULTIPROCESSING VLLM_ENGINE_READY_TIMEOUT_S
        VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS VLLM_FLASHINFER_ALLREDUCE_BACKEND VLLM_GPU_NIC_PCIE_MAPPING
        VLLM_HOST_IP VLLM_KEEP_ALIVE_ON_ENGINE_DEATH VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES VLLM_LOOPBACK_IP
        VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT VLLM_MOONCAKE_BOOTSTRAP_PORT VLLM_MOONCAKE_CONNECTOR_TIMEOUT
        VLLM_MOONCAKE_DISK_STAGING_USABLE_RATIO VLLM_MOONCAKE_LOAD_RECV_THREADS VLLM_MOONCAKE_STORE_TIER_LOG
        VLLM_MQ_MAX_CHUNK_BYTES_MB VLLM_MSGPACK_ZERO_COPY_THRESHOLD VLLM_NIC_SELECTION_VARS
        VLLM_NIXL_SIDE_CHANNEL_HOST VLLM_NIXL_SIDE_CHANNEL_PORT VLLM_OBJECT_STORAGE_SHM_BUFFER_NAME
        VLLM_P2P_HANDSHAKE_TIMEOUT_S VLLM_P2P_IDLE_TIMEOUT_S VLLM_P2P_MAX_PEERS VLLM_P2P_SIDE_CHANNEL_HOST
        VLLM_P2P_SIDE_CHANNEL_PORT VLLM_PORT VLLM_PP_LAYER_PARTITION VLLM_RANDOMIZE_DP_DUMMY_INPUTS
        VLLM_RAY_BUNDLE_INDICES VLLM_RAY_DP_PACK_STRATEGY VLLM_RAY_DP_PLACEMENT_NODE_IPS
        VLLM_RAY_EXTRA_ENV_VARS_TO_COPY VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY VLLM_RAY_PER_WORKER_GPUS
        VLLM_REPLICATE_EMBED VLLM_RINGBUFFER_WARNING_INTERVAL VLLM_ROCM_QUICK_REDUCE_MAX_SIZE_BYTES_MB
        VLLM_ROCM_QUICK_REDUCE_MIN_SIZE_BYTES_MB VLLM_ROCM_QUICK_REDUCE_QUANTIZATION_MIN_SIZE_KB
        VLLM_RPC_BASE_PATH VLLM_SKIP_P2P_CHECK VLLM_TPU_USING_PATHWAYS VLLM_USE_DIRECT_DCP_A2A
        VLLM_USE_DIRECT_DCP_KV_GATHER VLLM_USE_DIRECT_DCP_Q_GATHER VLLM_USE_NCCL_SYMM_MEM
        VLLM_USE_SPINLOOP_EXT VLLM_WORKER_MULTIPROC_METHOD VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS
        VLLM_XLA_USE_SPMD VLLM_XPU_PP_MICROBATCH
    """,
    # memory, where it lies, and how KV lies in it, which is looked at when pages are registered
    "memory": """
        VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE VLLM_CPU_KVCACHE_SPACE VLLM_CPU_NUM_OF_RESERVED_CPU
        VLLM_CPU_OMP_THREADS_BIND VLLM_FASTSAFETENSORS_QUEUE_SIZE VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE
        VLLM_KV_CACHE_LAYOUT VLLM_KV_OFFLOAD_MAX_BATCH_DESCRIPTORS VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS
        VLLM_MLA_DISABLE VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT VLLM_ROCM_SLEEP_MEM_CHUNK_SIZE
        VLLM_SPARSE_INDEXER_MAX_LOGITS_MB VLLM_SSM_CONV_STATE_LAYOUT VLLM_USE_SIMPLE_KV_OFFLOAD
        VLLM_WEIGHT_OFFLOADING_DISABLE_PIN_MEMORY VLLM_WEIGHT_OFFLOADING_DISABLE_UVA VLLM_WSL2_ENABLE_PIN_MEMORY
        VLLM_XPU_FORCE_N_CONTIG_WEIGHT VLLM_ZENTORCH_WEIGHT_PREPACK
    """,
    # which kernel computes the same, and how it is compiled, tuned and launched
    "kernels": """
        VLLM_ADAPTIVE_VERIFICATION_PROFILE_CONTEXT_LEN VLLM_BATCH_INVARIANT VLLM_BLOCKSCALE_FP8_GEMM_FLASHINFER
        VLLM_COHERE2_ATTN_MOE_DUAL_STREAM_TOKEN_THRESHOLD VLLM_CPU_ATTN_SPLIT_KV VLLM_DEEP_GEMM_WARMUP
        VLLM_DISABLED_KERNELS VLLM_DISABLE_DSV4_MEGAMOE_SHARED_EXPERT_FUSION VLLM_DISABLE_SHARED_EXPERTS_STREAM
        VLLM_ENABLE_CUDAGRAPH_GC VLLM_ENABLE_FLA_PACKED_RECURRENT_DECODE VLLM_ENABLE_GEMM_RS
        VLLM_ENABLE_HPC_OPS VLLM_ENABLE_INDUCTOR_COORDINATE_DESCENT_TUNING VLLM_ENABLE_INDUCTOR_MAX_AUTOTUNE
        VLLM_ENABLE_PREGRAD_PASSES VLLM_ENABLE_STARTUP_PLAN VLLM_FLASHINFER_AUTOTUNE_CACHE_DIR
        VLLM_FLASHINFER_AUTOTUNE_SKIP_OPS VLLM_FORCE_AOT_LOAD VLLM_GDN_DECODE_KERNEL
        VLLM_HAS_FLASHINFER_CUBIN VLLM_HUMMING_MOE_GEMM_TYPE VLLM_KIMI_K3_GEMM_AR
        VLLM_KIMI_K3_SHARD_SP_SHARED_EXPERT VLLM_LORA_DISABLE_PDL VLLM_LORA_ENABLE_DUAL_STREAM
        VLLM_MARLIN_USE_ATOMIC_ADD VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE VLLM_MOE_SKIP_PADDING
        VLLM_MOE_USE_DEEP_GEMM VLLM_MULTI_STREAM_GEMM_TOKEN_THRESHOLD VLLM_MXFP4_EMULATION_DEQUANT_AT_LOAD
        VLLM_MXFP8_EMULATION_DEQUANT_AT_LOAD VLLM_ROCM_AITER_MLA_ASM_PADDING
        VLLM_ROCM_AITER_MOE_DISPATCH_POLICY VLLM_ROCM_FP8_PADDING VLLM_ROCM_MOE_PADDING VLLM_ROCM_USE_AITER
        VLLM_ROCM_USE_AITER_CUSTOM_AR VLLM_ROCM_USE_AITER_FUSION_SHARED_EXPERTS VLLM_ROCM_USE_AITER_LINEAR
        VLLM_ROCM_USE_AITER_LINEAR_HIPBMM VLLM_ROCM_USE_AITER_MHA VLLM_ROCM_USE_AITER_MLA
        VLLM_ROCM_USE_AITER_MOE VLLM_ROCM_USE_AITER_MOE_SITUV2 VLLM_ROCM_USE_AITER_RMSNORM
        VLLM_ROCM_USE_AITER_TRITON_GEMM VLLM_ROCM_USE_AITER_TRITON_ROPE
        VLLM_ROCM_USE_AITER_TRITON_SPARSE_MLA VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION VLLM_ROCM_USE_SKINNY_GEMM
        VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD VLLM_STEP5_SHARD_SP_SHARED_EXPERT
        VLLM_TRITON_FORCE_FIRST_CONFIG VLLM_TRITON_JIT_WARMUP_NUM_THREADS VLLM_TRITON_USE_TD
        VLLM_TUNED_CONFIG_FOLDER VLLM_USE_AOT_COMPILE VLLM_USE_BREAKABLE_CUDAGRAPH VLLM_USE_BYTECODE_HOOK
        VLLM_USE_DEEP_GEMM VLLM_USE_DEEP_GEMM_TMA_ALIGNED_SCALES VLLM_USE_FLASHINFER_MOE_INT4
        VLLM_USE_FLASHINFER_SAMPLER VLLM_USE_FUSED_MOE_GROUPED_TOPK VLLM_USE_HW_AGNOSTIC VLLM_USE_LAYERNAME
        VLLM_USE_MEGA_AOT_ARTIFACT VLLM_USE_OINK_OPS VLLM_USE_STANDALONE_COMPILE VLLM_USE_TRITON_AWQ
        VLLM_USE_V2_MODEL_RUNNER VLLM_XPU_USE_SAMPLER_KERNEL
    """,
}
