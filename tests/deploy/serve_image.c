/* Serves one image from a SavedModel through TensorFlow's C API, with no Python in the process.
 *
 * usage: serve_image SAVED_MODEL INPUT CLASS_MAP STATUS IMAGE PNG
 *
 * INPUT, CLASS_MAP and STATUS are the graph's tensors of the signature, such as serving_default_image_bytes:0.
 * Writes the class map to PNG and the status to standard output; exits with 1 where anything fails.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

static char *read_file(const char *path, size_t *length) {
  FILE *file = fopen(path, "rb");
  if (!file) fail(path, "cannot be opened");
  fseek(file, 0, SEEK_END);
  *length = (size_t)ftell(file);
  rewind(file);
  char *bytes = malloc(*length + 1);
  if (fread(bytes, 1, *length, file) != *length) fail(path, "cannot be read");
  fclose(file);
  return bytes;
}

static void write_file(const char *path, const char *bytes, size_t length) {
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(bytes, 1, length, file) != length || fclose(file)) fail(path, "cannot be written");
}

/* The tensor "operation:index" of a graph. */
static TF_Output find(TF_Graph *graph, const char *name) {
  char operation[512];
  const char *colon = strrchr(name, ':');
  if (!colon || colon - name >= (long)sizeof operation) fail(name, "is no name of a tensor");
  memcpy(operation, name, (size_t)(colon - name));
  operation[colon - name] = '\0';
  TF_Output output = {TF_GraphOperationByName(graph, operation), atoi(colon + 1)};
  if (!output.oper) fail(name, "is not in the graph");
  return output;
}

/* A batch of one string. */
static TF_Tensor *string_batch(const char *bytes, size_t length) {
  const int64_t shape[] = {1};
  TF_Tensor *tensor = TF_AllocateTensor(TF_STRING, shape, 1, sizeof(TF_TString));
  TF_TString *string = TF_TensorData(tensor);
  TF_StringInit(string);
  TF_StringCopy(string, bytes, length);
  return tensor;
}

static const char *only_string(const TF_Tensor *tensor, size_t *length) {
  if (TF_TensorType(tensor) != TF_STRING || TF_NumDims(tensor) != 1 || TF_Dim(tensor, 0) != 1)
    fail("output", "is not a batch of one string");
  const TF_TString *string = TF_TensorData(tensor);
  *length = TF_StringGetSize(string);
  return TF_StringGetDataPointer(string);
}

int main(int count, char **arguments) {
  if (count != 7) fail("usage", "serve_image SAVED_MODEL INPUT CLASS_MAP STATUS IMAGE PNG");
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, arguments[1], tags, 1, graph, NULL, status);
  check(status, arguments[1]);

  size_t length;
  char *image = read_file(arguments[5], &length);
  TF_Tensor *input_values[] = {string_batch(image, length)};
  TF_Tensor *output_values[2] = {NULL, NULL};
  const TF_Output inputs[] = {find(graph, arguments[2])};
  const TF_Output outputs[] = {find(graph, arguments[3]), find(graph, arguments[4])};
  TF_SessionRun(session, NULL, inputs, input_values, 1, outputs, output_values, 2, NULL, 0, NULL, status);
  check(status, "run");

  const char *bytes = only_string(output_values[0], &length);
  write_file(arguments[6], bytes, length);
  bytes = only_string(output_values[1], &length);
  printf("%.*s\n", (int)length, bytes);

  TF_DeleteTensor(input_values[0]);
  TF_DeleteTensor(output_values[0]);
  TF_DeleteTensor(output_values[1]);
  free(image);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
