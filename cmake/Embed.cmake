# an_embed(TARGET FILE NAME): the bytes of FILE become part of TARGET's library or program, as
#     extern const unsigned char NAME[];  /* a zero byte follows the last one */
#     extern const size_t NAME_size;
# which C files declare where they use them. The assembler reads the file (.incbin), so that nothing has
# to be turned into text; ELF, gcc and clang. FILE may be made by a custom command of the same
# directory. When it changes, only its own object is built again.
function(an_embed target file name)
  get_filename_component(path "${file}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
  if(path MATCHES "[\"\\\\]")
    message(FATAL_ERROR "an_embed: '${path}' has a quote or a backslash in its name")
  endif()
  set(source "${CMAKE_BINARY_DIR}/embed/${name}.c")
  # Written only if it differs: a new configuration builds nothing again.
  file(GENERATE OUTPUT "${source}" CONTENT
"/* Made by cmake/Embed.cmake. */
#if __SIZEOF_SIZE_T__ == 8
#define WORD \".quad\"
#else
#define WORD \".long\"
#endif
__asm__(\".pushsection .rodata\\n\"
        \".global ${name}\\n.type ${name}, %object\\n.balign 16\\n\"
        \"${name}:\\n.incbin \\\"${path}\\\"\\n\"
        \".L${name}_end:\\n.byte 0\\n.size ${name}, . - ${name}\\n\"
        \".global ${name}_size\\n.type ${name}_size, %object\\n.balign 8\\n\"
        \"${name}_size:\\n\" WORD \" .L${name}_end - ${name}\\n\"
        \".size ${name}_size, . - ${name}_size\\n\"
        \".popsection\\n\");
typedef int an_embed_is_not_empty; /* a file of C declares something */
")
  set_source_files_properties("${source}" PROPERTIES GENERATED ON OBJECT_DEPENDS "${path}")
  target_sources(${target} PRIVATE "${source}")
endfunction()
