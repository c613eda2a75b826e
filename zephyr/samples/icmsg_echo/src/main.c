/*
 * Copyright (c) 2026 The ivshmem-flat authors
 * SPDX-License-Identifier: Apache-2.0
 */

/*
 * An ICMsg endpoint that sends each message back: to a peer on the host, to a
 * Linux machine, or to this program on another machine, with CONFIG_SAMPLE_ASK.
 */

#include <stdio.h>
#include <string.h>

#include <zephyr/device.h>
#include <zephyr/ipc/ipc_service.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

#define MESSAGES 100

static K_SEM_DEFINE(bound, 0, 1);
static struct ipc_ept endpoint;

#ifdef CONFIG_SAMPLE_ASK
static K_SEM_DEFINE(answered, 0, 1);
static char question[32];
static bool answer_good;
#endif

static void on_bound(void *priv)
{
	ARG_UNUSED(priv);

	printk("bound\n");
	k_sem_give(&bound);
}

static void on_received(const void *data, size_t length, void *priv)
{
	ARG_UNUSED(priv);

#ifdef CONFIG_SAMPLE_ASK
	answer_good = length == strlen(question) && memcmp(data, question, length) == 0;
	k_sem_give(&answered);
#else
	int ret;

	printk("received %zu bytes\n", length);
	do {
		/* no room until the other side has read what is there */
		ret = ipc_service_send(&endpoint, data, length);
	} while (ret == -ENOMEM);
	if (ret < 0) {
		printk("failed: cannot send %zu bytes: %d\n", length, ret);
	}
#endif
}

static const struct ipc_ept_cfg config = {
	.cb = {
		.bound = on_bound,
		.received = on_received,
	},
};

int main(void)
{
	const struct device *ipc = DEVICE_DT_GET(DT_NODELABEL(ipc0));
	int ret = ipc_service_open_instance(ipc);

	if (ret == 0) {
		ret = ipc_service_register_endpoint(ipc, &endpoint, &config);
	}
	if (ret < 0) {
		printk("failed: cannot open the endpoint: %d\n", ret);
		return 0;
	}
	printk("waits for the other side\n");
	k_sem_take(&bound, K_FOREVER);

#ifdef CONFIG_SAMPLE_ASK
	for (int i = 0; i < MESSAGES; i++) {
		snprintf(question, sizeof(question), "question %d", i);
		ret = ipc_service_send(&endpoint, question, strlen(question));
		if (ret < 0 || k_sem_take(&answered, K_SECONDS(10)) != 0 || !answer_good) {
			printk("failed: question %d, sent with %d\n", i, ret);
			return 0;
		}
	}
	printk("passed: %d messages came back\n", MESSAGES);
#endif
	return 0;
}
