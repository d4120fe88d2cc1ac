"""Keys of Apache's broker and name server that mean nothing here: accepted with a warning.

They tune what this broker does not have (Java thread pools, off-heap buffers, RocksDB), or parts of
Apache's own products (commercial statistics, filter servers). A key that is neither here nor in the
table is an error, because it is most likely misspelt.
"""

from __future__ import annotations

from typing import Final

_GROUPS: Final = {
    "there are no Java thread pools here; serveProcessNums sets the processes": """
        sendMessageThreadPoolNums putMessageFutureThreadPoolNums pullMessageThreadPoolNums
        litePullMessageThreadPoolNums ackMessageThreadPoolNums processReplyMessageThreadPoolNums
        queryMessageThreadPoolNums adminBrokerThreadPoolNums clientManageThreadPoolNums
        consumerManageThreadPoolNums loadBalanceProcessorThreadPoolNums heartbeatThreadPoolNums
        recoverThreadPoolNums endTransactionThreadPoolNums clientRequestThreadPoolNums
        defaultThreadPoolNums batchDispatchRequestThreadPoolNums dispatchCqThreads
        compactionThreadNum timerGetMessageThreadNum timerPutMessageThreadNum
        serverWorkerThreads serverCallbackExecutorThreads serverSelectorThreads
        clientWorkerThreads clientCallbackExecutorThreads serverOnewaySemaphoreValue
        serverAsyncSemaphoreValue clientOnewaySemaphoreValue clientAsyncSemaphoreValue
        disableCallbackExecutor disableNettyWorkerGroup serverNettyWorkerGroupEnable
        recoverConcurrently recoverThreadNums enableBuildConsumeQueueConcurrently
        timerEnableDisruptor enableFastChannelEventProcess dispatchFromSenderThread""",
    "requests do not wait in Java queues here; see waitTimeMillsInSendQueue": """
        sendThreadPoolQueueCapacity putThreadPoolQueueCapacity pullThreadPoolQueueCapacity
        litePullThreadPoolQueueCapacity ackThreadPoolQueueCapacity replyThreadPoolQueueCapacity
        queryThreadPoolQueueCapacity clientManagerThreadPoolQueueCapacity
        consumerManagerThreadPoolQueueCapacity heartbeatThreadPoolQueueCapacity
        endTransactionPoolQueueCapacity adminBrokerThreadPoolQueueCapacity
        loadBalanceThreadPoolQueueCapacity clientRequestThreadPoolQueueCapacity
        defaultThreadPoolQueueCapacity unRegisterBrokerQueueCapacity maxAsyncPutMessageRequests
        waitTimeMillsInLitePullQueue waitTimeMillsInAckQueue dispatchCqCacheNum""",
    "there is no Netty here; the kernel and serverSocket*BufSize set buffers": """
        serverPooledByteBufAllocatorEnable clientPooledByteBufAllocatorEnable
        writeBufferHighWaterMark writeBufferLowWaterMark useEpollNativeSelector
        clientSocketSndBufSize clientSocketRcvBufSize clientCloseSocketIfTimeout
        clientChannelMaxIdleTimeSeconds connectTimeoutMillis channelNotActiveInterval
        enableShutdownGracefully shutdownWaitTimeSeconds socksProxyConfig
        maxReconnectIntervalTimeSeconds enableReconnectForGoAway enableTransparentRetry
        enableNetWorkFlowControl printChannelGroups printChannelGroupsMinNum""",
    "one process appends here, without a lock": """
        useReentrantLockWhenPutMessage useABSLock spinLockCollisionRetreatOptimalDegree
        topicQueueLockNum debugLockEnable duplicationEnable""",
    "the commitlog's newest pages are kept in shared memory here; see hotPoolSize": """
        transientStorePoolEnable transientStorePoolSize fastFailIfNoBufferInStorePool
        commitIntervalCommitLog commitCommitLogLeastPages commitCommitLogThoroughInterval
        wakeCommitWhenPutMessage wakeFlushWhenPutMessage warmMapedFileEnable
        flushLeastPagesWhenWarmMapedFile writeWithoutMmap transferMsgByHeap
        mappedFileSwapEnable commitLogForceSwapMapInterval commitLogSwapMapInterval
        commitLogSwapMapReserveFileNum logicQueueForceSwapMapInterval logicQueueSwapMapInterval
        cleanSwapedMapInterval logicQueueSwapMapReserveFileNum dataReadAheadEnable
        putConsumeQueueDataByFileChannel timerWarmEnable accessMessageInMemoryHotRatio
        putMessageTimeout""",
    "the store has no RocksDB here": """
        cleanRocksDBDirtyCQIntervalMin statRocksDBCQIntervalSec memTableFlushIntervalMs
        realTimePersistRocksDBConfig enableRocksDBLog rocksdbCQDoubleWriteEnable
        bottomMostCompressionTypeForConsumeQueueStore rocksdbCompressionType
        rocksdbFlushWalFrequency rocksdbWalFileRollingThreshold transferOffsetJournalToRocksdb
        useSingleRocksDBForAllConfigs configManagerVersion popConsumerKVServiceEnable
        popConsumerKVServiceInit popConsumerKVServiceLog popConsumerFSServiceInit
        useRocksDBConsumeQueue combineCQLoadingCQTypes combineCQPreferCQType
        combineCQEnableCheckSelf combineAssignOffsetCQType
        combineCQMaxExtraLookBackCommitLogFiles combineCQUseRocksdbForLmq
        timerRocksDBEnable transRocksDBEnable indexRocksDBEnable""",
    "this store looks after these by itself": """
        enableAsyncReput recheckReputOffsetFromCq maxRecoveryCommitlogFiles maxChecksumRange
        enableAcceleratedRecovery commitLogRecoverMaxNum correctLogicMinOffsetSleepInterval
        correctLogicMinOffsetForceInterval sleepIntervalFlushConsumeQueue maxConsumeQueueScan
        sampleCountThreshold sampleSteps searchBcqByCacheEnable diskFallRecorded
        putMsgIndexHightWater maxBatchDeleteFilesNum replicasPerDiskPartition
        logicalDiskSpaceCleanForciblyThreshold bitMapLengthConsumeQueueExt
        mapperFileSizeBatchConsumeQueue maxSlaveResendLength syncMasterFlushOffsetWhenStartup
        enableCleanExpiredOffset cleanOfflineBrokerInterval estimateAccumulation
        readOnlyCommitLogStorePaths storePathDLedgerCommitLog pullBatchMaxMessageCount
        consumerOffsetUpdateVersionStep delayOffsetUpdateVersionStep
        flushConsumerOffsetHistoryInterval filterDataCleanTimeSpan asyncSendEnable
        enableScheduleAsyncDeliver scheduleAsyncDeliverMaxPendingLimit
        scheduleAsyncDeliverMaxResendNum2Blocked forwardTimeout useStaticSubscription
        enableRegisterProducer enableCreateSysGroup clearRetryTopicWhenDeleteTopic
        enableMixedMessageType loadBalancePollNameServerInterval fetchNamesrvAddrInterval
        enableSingleTopicRegister enableSplitRegistration splitRegistrationSize
        allowRecallWhenBrokerNotWriteable deleteTopicWithBrokerRegistration enableTopicList
        returnOrderTopicConfigToBroker needWaitForService waitSecondsForService""",
    "the planned form of this feature needs no such fine tuning": """
        reviveInterval reviveMaxSlow reviveScanTime enableSkipLongAwaitingAck reviveAckWaitMs
        popPollingMapSize popCkStayBufferTime popCkStayBufferTimeOut popCkMaxBufferSize
        popCkOffsetMaxQueueSize enablePopBatchAck enablePopBufferMerge enablePopLog
        enableNotifyAfterPopOrderLockRelease initPopOffsetByCheckMsgInMem
        retrieveMessageFromPopRetryTopicV1 popReviveMaxReturnSizePerRead
        popReviveMaxAttemptTimes popResponseReturnActualRetryTopic popInflightMessageThreshold
        enablePopMessageThreshold appendAckAsync appendCkAsync serverLoadBalancerEnable
        defaultMessageRequestMode defaultPopShareQueueNum enableBroadcastOffsetStore
        broadcastOffsetExpireSecond broadcastOffsetExpireMaxSecond transactionMetricFlushInterval
        timerEnableCheckMetrics timerInterceptDelayLevel disappearTimeAfterStart timerStopEnqueue
        timerStopDequeue timerCheckMetricsWhen timerSkipUnknownError
        timerEnableRetryUntilSuccess timerMetricSmallThreshold timerProgressLogIntervalMs
        timerColdDataCheckIntervalMs coldCtrStrategyEnable usePIDColdCtrStrategy
        coldDataScanEnable compactionMappedFileSize compactionCqMappedFileSize
        compactionScheduleInternal maxOffsetMapSize enableLmqStats enableScheduleMessageStats
        metricsOtelCardinalityLimit metricsGrpcExporterTarget metricsGrpcExporterHeader
        metricGrpcExporterTimeOutInMills metricGrpcExporterIntervalInMills
        metricLoggingExporterIntervalInMills authenticationProvider
        authenticationMetadataProvider authenticationStrategy authorizationProvider
        authorizationMetadataProvider authorizationStrategy migrateAuthFromV1Enabled
        authConfigPath authConfigName clusterName enableControllerInNamesrv
        fetchControllerAddrByDnsLookup isBrokerContainer isInBrokerContainer""",
    "it belongs to parts of Apache's product that are not here": """
        rocketmqHome brokerConfigPath configStorePath messageStorePlugIn filterServerNums
        highSpeedMode commercialBaseCount commercialTimerCount commercialTransCount
        commercialBigCount commercialSizePerMsg commercialEnable accountStatsEnable
        accountStatsPrintZeroValues enableDetailStat autoDeleteUnusedStats isolateLogEnable
        fetchNamesrvAddrByAddressServer fetchNameSrvAddrByDnsLookup""",
}

IGNORED: Final[dict[str, str]] = {
    key: reason for reason, keys in _GROUPS.items() for key in keys.split()
}
"""Key to the reason why it has no effect."""
